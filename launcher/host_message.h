// What launchers of different hosts tell each other: small JSON texts, one a frame.
//
// Every field of a text that came is checked; the sender is another host of the job, which has shown that it
// knows the secret, but may be of another version or broken.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace annulus {

// What a host says of itself before the run starts.
struct HostReport {
  // Name and value of all that must be the same on every host, in the order of the table that names
  // differences.
  std::vector<std::pair<std::string, std::string>> facts;
  std::vector<uint16_t> ports;  // by rank: where it listens for connections of other hosts' ranks
  struct Saved {
    uint32_t step = 0;
    std::string weights;  // their checksum
    bool operator==(const Saved&) const = default;
  };
  // What it can go on from, of the run that is resumed; empty: nothing, or the run begins anew.
  std::vector<Saved> checkpoints;

  bool operator==(const HostReport&) const = default;
};

// What the coordinator decides for all.
struct HostStart {
  uint64_t job = 0;                          // a number that no other run has
  std::vector<std::vector<uint16_t>> ports;  // [node][rank]
  uint32_t step = 0;    // all go on from the checkpoint of this step; 0: from new weights
  std::string run_dir;  // the coordinator's; the others' are below one of this name

  bool operator==(const HostStart&) const = default;
};

struct HostMessage {
  enum class Kind {
    kJoin,      // to the coordinator: report
    kStart,     // from it: start
    kRefuse,    // from it: text, the table of what is wrong where
    kAbort,     // both ways: attempt, text (why): the attempt is over on every host
    kParked,    // to it: attempt, step: every rank of this host stands still, this step is committed there
    kResume,    // from it: attempt (the new one), step: go on from this step
    kFinished,  // to it: attempt: every rank of this host has done the last step
    kDismiss,   // from it: so have those of all hosts
    kWarn,      // to it, and from it to the first host's member: text, for people
    kStop,      // both ways: code (a signal): the run ends after the step under way
    kQuit,      // both ways: code (a signal): it ends at once
    kFailed,    // to it: code, text: this host cannot go on
    kEnd,       // from it: code, text: the run ends, and why
    kEnded,     // to it: step: no rank runs on this host any more, this step is committed there
    kSettle,    // from it: step: the last checkpoint is that of this step
  };
  Kind kind = Kind::kAbort;
  uint32_t attempt = 0;
  uint32_t step = 0;  // Versions::kNone: not even initial weights
  int code = 0;
  std::string text = {};
  HostReport report = {};
  HostStart start = {};

  bool operator==(const HostMessage&) const = default;
};

// The text's limit, in bytes.
inline constexpr size_t kMostMessageBytes = size_t{1} << 20;

std::string to_json(const HostMessage& message);
// Throws std::invalid_argument that says what is wrong with the text.
HostMessage host_message(std::string_view json);

const char* name_of(HostMessage::Kind kind);

}  // namespace annulus
