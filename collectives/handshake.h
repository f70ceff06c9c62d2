// How two processes of one job, on two hosts, come to trust a connection: each proves to the other that it
// knows the job's secret, without sending it, and says who it is.
//
//        client                                                server
//          | Hello      who I am, a fresh number                 |
//          | ------------------------------------------------->  |
//          |             a fresh number, a proof      Challenge  |
//          | <-------------------------------------------------  |
//          | Response   a proof                                  |
//          | ------------------------------------------------->  |
//          |   who I am, welcome or why not, a proof    Verdict  |
//          | <-------------------------------------------------  |
//
// A proof is the HMAC-SHA256, by the secret, of its sender's role and all bytes of the conversation before
// it. The fresh numbers make it worthless in any other conversation, and the roles make it worthless when
// sent back to the one it came from. Who greets well gets a Challenge; only who then proves itself learns
// more, and strangers see no more than the end of the connection. What follows a handshake is neither
// enciphered nor signed.
//
//   little-endian   0        8          56       88
//        Hello      | magic  | identity | number |
//        Challenge  | magic  | number 32 | proof 32 |
//        Response   | magic  | proof 32 |
//        Verdict    | magic  | identity 48 | refusal u32 | 0 u32 | proof 32 |
//
// Bytes in, bytes out: there are no sockets here, nor clocks. tcp.h has the one, acceptor.h and connector.h
// the other. One thread uses a handshake.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "collectives/secret.h"

namespace annulus {

// Of these messages and of all that follow them. The sizes of these messages stay as they are over all
// versions, so that different ones can tell each other.
inline constexpr uint32_t kWireVersion = 1;

// What a connection is for.
enum class Purpose : uint32_t {
  kControl = 1,  // launchers
  kBridge = 2,   // gradients between hosts
};

// Who is at one end of a connection. As it goes over the wire.
struct Identity {
  uint32_t wire_version = kWireVersion;
  Purpose purpose = Purpose::kControl;
  uint32_t node = 0;   // the host's number, below `world`
  uint32_t rank = 0;   // within the host
  uint32_t world = 0;  // hosts of the job
  uint32_t attempt = 0;
  uint64_t job = 0;
  uint64_t config_hash = 0;
  uint64_t program_hash = 0;

  bool operator==(const Identity&) const = default;
};
static_assert(sizeof(Identity) == 48);

// Why a handshake came to nothing. The values go over the wire.
enum class Refusal : uint32_t {
  kNone = 0,
  kStranger,  // no proof, or a wrong one, or bytes of another kind. Never sent
  kWireVersion,
  kProgram,
  kJob,
  kConfig,
  kWorld,
  kPurpose,
  kUnknownRank,   // a node or a rank that is not in the job
  kDuplicate,     // one that is connected already
  kAttemptStale,  // the client is of an attempt that is over
  kAttemptEarly,  // the client is of an attempt that the server has not begun; it may come again
};
inline constexpr uint32_t kRefusals = 12;

// What two processes must have in common, and the first thing that differs: wire version, program, job,
// configuration, hosts, purpose; kUnknownRank where the peer's node is none. Attempts are compare_attempts().
Refusal compare(const Identity& own, const Identity& peer);

// kAttemptStale or kAttemptEarly where they differ, as seen by the side that `own` is of.
Refusal compare_attempts(const Identity& own, const Identity& peer);

// A refusal in words, with both values: "another configuration: hash 00ab here, 00cd there".
std::string describe(Refusal refusal, const Identity& own, const Identity& peer);

// What a side demands of the other, once that has proven itself. It is called once in a handshake.
using Policy = std::function<Refusal(const Identity& peer)>;

class Handshake {
 public:
  enum class State { kRunning, kDone, kRefused };

  virtual ~Handshake() = default;
  Handshake(const Handshake&) = delete;
  Handshake& operator=(const Handshake&) = delete;

  // The bytes that are missing of the message that is due; 0 once the handshake is over. Who reads no more
  // than that leaves to the connection what comes after the handshake.
  size_t wants() const { return state_ == State::kRunning ? due_ - in_.size() : 0; }

  // Takes what came, in whatever pieces. Returns how many bytes belonged to the handshake: all, until it is
  // over. Throws what the policy throws.
  size_t feed(std::span<const std::byte> bytes);

  // What is to be sent, in the first place even when the handshake is over; sent() says how much of it has
  // been.
  std::span<const std::byte> output() const { return std::span(out_).subspan(sent_); }
  void sent(size_t bytes);

  State state() const { return state_; }
  // Why the state is kRefused, whichever side refused.
  Refusal refusal() const { return refusal_; }
  // What the peer said of itself, and has proven. Not to be called while the handshake runs, nor where a
  // stranger was refused.
  const Identity& peer() const;

 protected:
  Handshake(const Secret& secret, const Identity& own, Policy policy, size_t first_due);

  // A whole message, of the size that was due.
  virtual void take(std::span<const std::byte> message) = 0;

  using Proof = std::array<std::byte, 32>;
  // Of the conversation as it stands.
  Proof proof_of(const char* role) const;
  // Whether `message`, which ends with a proof, proves that its sender knows the secret. Adds it to the
  // conversation.
  bool is_proven(std::span<const std::byte> message, const char* role);
  // Adds the proof that `message` ends with, then sends it.
  void prove_and_send(std::span<std::byte> message, const char* role);
  void converse(std::span<const std::byte> bytes) {
    conversation_.insert(conversation_.end(), bytes.begin(), bytes.end());
  }
  void send(std::span<const std::byte> bytes) { out_.insert(out_.end(), bytes.begin(), bytes.end()); }

  void end(Refusal refusal) {
    refusal_ = refusal;
    state_ = refusal == Refusal::kNone ? State::kDone : State::kRefused;
  }

  Secret secret_;
  Identity own_, peer_;
  Policy policy_;
  size_t due_;

 private:
  State state_ = State::kRunning;
  Refusal refusal_ = Refusal::kNone;
  std::vector<std::byte> in_, out_, conversation_;
  size_t sent_ = 0;
};

// The side that was connected to.
class ServerHandshake : public Handshake {
 public:
  ServerHandshake(const Secret& secret, const Identity& own, Policy policy);

  // Whether a Hello has come: not a proof, but more than silence.
  bool was_greeted() const { return greeted_; }

 private:
  void take(std::span<const std::byte> message) override;

  bool greeted_ = false;
};

// The side that has connected. Its policy judges a server that has welcomed it.
class ClientHandshake : public Handshake {
 public:
  ClientHandshake(const Secret& secret, const Identity& own, Policy policy);

 private:
  void take(std::span<const std::byte> message) override;

  bool challenged_ = false;
};

}  // namespace annulus
