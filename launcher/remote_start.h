// RemoteStart: has the other hosts of a run started by ssh, and tells what they print on stderr and how their
// ssh ends.
//
//   ssh -o BatchMode=yes NAME 'cd DIRECTORY; exec PATH train --hosts - --node K' <order
//
// The order (HostOrder) is the first line of stdin, which stays open: its end tells a host that the first one
// is gone. The kernel ends all ssh with this process. ANNULUS_SSH names another program than ssh.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "collectives/event_poll.h"
#include "launcher/child_process.h"
#include "launcher/run_hosts.h"

namespace annulus {

class RemoteStart {
 public:
  // `program`: the path of this program on the other hosts. Throws UserError where no process can be had.
  RemoteStart(const HostOrder& order, const std::string& program);
  // Kills what is left.
  ~RemoteStart();
  RemoteStart(const RemoteStart&) = delete;
  RemoteStart& operator=(const RemoteStart&) = delete;

  // Readable when poll() has something to tell.
  int fd() const { return events_.fd(); }

  struct Event {
    int node = 0;
    std::string line;    // of its stderr; empty: none
    bool ended = false;  // its ssh has ended
    std::string why;     // what to say of that: its code and its last line
  };
  std::vector<Event> poll();
  // Tells the hosts that this one goes.
  void close_inputs();
  bool any_left() const;

 private:
  struct Remote {
    int node = 0;
    ChildProcess ssh;  // no process: it has ended
    UniqueFd input;    // its stdin
    std::string text;  // of stderr, of the line that is not whole yet
    std::string last;  // line
  };
  void read(Remote& remote, std::vector<Event>& events);

  EventPoll events_;
  std::vector<std::unique_ptr<Remote>> remotes_;
};

// `text` as one word of a shell.
std::string shell_word(const std::string& text);
// What ssh is given to have the shell of host `node` do.
std::string remote_command(const std::string& directory, const std::string& program, int node);

}  // namespace annulus
