// HostControl: the connections between the launchers of a run on several hosts: one from every other host to
// the first one's. What is said over them is HostPreflight's, HostCoordinator's and HostMember's affair.
//
// Every second each side sends a beat, and a host that has sent nothing for 10 s is lost. Time is counted in
// slices that the caller gives, so that a machine which was stopped does not find the others gone. What
// blocks: preflight(), give_up() for up to 3 s, and the destructor, where this host has started the others,
// until those have ended, for up to 5 s. One thread uses it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "collectives/acceptor.h"
#include "collectives/event_poll.h"
#include "collectives/frame_stream.h"
#include "launcher/host_coordinator.h"
#include "launcher/host_member.h"
#include "launcher/host_preflight.h"
#include "launcher/remote_start.h"
#include "launcher/run_hosts.h"

namespace annulus {

inline constexpr int64_t kHostBeatNs = 1'000'000'000;
inline constexpr int64_t kHostSilenceNs = 10'000'000'000;

class HostControl {
 public:
  using Say = std::function<void(const std::string&)>;

  // The first host listens from now on. `say` is told what other hosts print on stderr.
  HostControl(const RunHosts& hosts, Say say);
  ~HostControl();
  HostControl(const HostControl&) = delete;
  HostControl& operator=(const HostControl&) = delete;

  // The first host: where it listens, so that it can have the others started, and what starts them.
  uint16_t port() const { return acceptor_->address().port(); }
  void started_by(std::unique_ptr<RemoteStart> remote);

  // Waits until all hosts have come, for `deadline_s` at most, and compares what they say of themselves with
  // what this one says. Throws UserError with a table of what is wrong where, on all hosts.
  HostStart preflight(const HostReport& own, double deadline_s);
  // The first host, afterwards: tells the others to start, or why not.
  void start(const HostStart& start);
  void refuse(const std::string& why);
  // Another host, instead of all this: tells the first one why it does not come, if that can be reached soon.
  void give_up(const std::string& why);

  // Whether the run has started.
  bool running() const { return phase_ == Phase::kRunning; }
  // The run's.
  HostMember& member() { return member_; }

  // Readable when serve() has something to do.
  int fd() const { return events_.fd(); }
  void serve();
  void tick(int64_t elapsed_ns);
  void set_say(Say say) { say_ = std::move(say); }

  // Whether no other host needs this one any more: all have closed their connections.
  bool alone() const;
  // Closes this host's own connection, once it needs nobody any more.
  void leave();

 private:
  struct Peer {
    std::unique_ptr<FrameStream> stream;  // null: it has not come, or is gone
    int64_t silent_ns = 0;
  };

  bool first() const { return hosts_.node == 0; }
  const std::string& name(int node) const { return hosts_.list.hosts[node].name; }
  Identity identity() const;
  Refusal judge(const Identity& peer);
  void add(int node, UniqueFd fd);
  void connect(double deadline_s);
  void send(int node, const HostMessage& message);
  void read(int node);
  void take(int node, const HostMessage& message);
  void drop(int node, const std::string& why);
  void close(int node);
  void follow(const HostCoordinator::Orders& orders);
  void wait_a_moment();
  void collect_remotes();
  HostStart await_start(const HostReport& own, double deadline_s);
  HostStart gather(const HostReport& own, double deadline_s);

  enum class Phase { kPreflight, kRunning };

  const RunHosts& hosts_;
  Say say_;
  EventPoll events_;
  std::unique_ptr<Acceptor> acceptor_;   // of the first host
  std::vector<Peer> peers_;              // by node; other hosts know the first one alone
  std::unique_ptr<RemoteStart> remote_;  // of the first host, where it has started the others
  Phase phase_ = Phase::kPreflight;
  bool refused_ = false;
  std::optional<HostPreflight> preflight_;      // of the first host
  std::optional<HostMessage> answer_;           // to the others: start, or refuse
  std::optional<HostCoordinator> coordinator_;  // of the first host
  HostMember member_;
  int64_t last_wait_ns_ = 0, since_beat_ns_ = 0;
};

}  // namespace annulus
