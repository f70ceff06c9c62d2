#include "launcher/remote_start.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "telemetry/error.h"

namespace annulus {
namespace {

constexpr size_t kMostLine = 4096;

// The process becomes ssh.
int become_ssh(const std::string& host, const std::string& command, int input, int output) {
  const char* const program = getenv("ANNULUS_SSH") != nullptr ? getenv("ANNULUS_SSH") : "ssh";
  const int nowhere = open("/dev/null", O_WRONLY);
  if (nowhere < 0 || dup2(input, 0) < 0 || dup2(nowhere, 1) < 0 || dup2(output, 2) < 0) return 1;
  execlp(program, program, "-o", "BatchMode=yes", host.c_str(), command.c_str(), nullptr);
  const std::string text = fmt::format("{} cannot be started: {}\n", program, std::strerror(errno));
  (void)!write(2, text.data(), text.size());
  return 127;
}

// Control characters of another machine are not for this terminal.
std::string printable(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) c = ' ';
  }
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}

}  // namespace

std::string shell_word(const std::string& text) {
  std::string word = "'";
  for (const char c : text) {
    if (c == '\'') {
      word += "'\\''";
    } else {
      word += c;
    }
  }
  return word + "'";
}

// Where the directory is not there it is the user's home, and relative paths are not found: that host says
// so.
std::string remote_command(const std::string& directory, const std::string& program, int node) {
  // For pools of threads there, as main() sets it here.
  return fmt::format("cd {} 2>/dev/null; exec env GOMP_SPINCOUNT=5000 {} train --hosts - --node {}",
                     shell_word(directory), shell_word(program), node);
}

RemoteStart::RemoteStart(const HostOrder& order, const std::string& program) {
  const std::string directory = std::filesystem::current_path().string();
  const std::string line = to_json(order) + "\n";
  for (int node = 1; node < order.list.count(); ++node) {
    const std::string& host = order.list.hosts[node].name;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) {
      throw UserError::format("cannot start ssh {}: {}; raise the limit of open files (ulimit -n)", host,
                              std::strerror(errno));
    }
    UniqueFd input(ends[0]);
    auto remote = std::make_unique<Remote>();
    remote->node = node;
    remote->input = UniqueFd(ends[1]);
    const std::string command = remote_command(directory, program, node);
    remote->ssh =
        spawn("annulus:ssh", [&](int output) { return become_ssh(host, command, input.get(), output); });
    fcntl(remote->ssh.output, F_SETFL, O_NONBLOCK);
    events_.add(remote->ssh.output, EventPoll::kTimer + node, EPOLLIN);
    remotes_.push_back(std::move(remote));
    // Less than what a pipe holds, unless the configuration is huge; where ssh has ended, SIGPIPE is not
    // wanted.
    struct sigaction ignore {
    }, before{};
    ignore.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &ignore, &before);
    write_all(remotes_.back()->input.get(), line);
    sigaction(SIGPIPE, &before, nullptr);
  }
}

RemoteStart::~RemoteStart() {
  for (const auto& remote : remotes_) {
    if (remote->ssh.pid < 0) continue;
    kill(remote->ssh.pid, SIGKILL);
    finish(remote->ssh);
  }
}

void RemoteStart::close_inputs() {
  for (const auto& remote : remotes_) remote->input.reset();
}

bool RemoteStart::any_left() const {
  for (const auto& remote : remotes_) {
    if (remote->ssh.pid >= 0) return true;
  }
  return false;
}

std::vector<RemoteStart::Event> RemoteStart::poll() {
  std::vector<Event> result;
  std::array<epoll_event, 32> buffer;
  for (const epoll_event& event : events_.poll(buffer)) {
    for (const auto& remote : remotes_) {
      if (EventPoll::kTimer + remote->node == event.data.u64 && remote->ssh.pid >= 0) read(*remote, result);
    }
  }
  return result;
}

void RemoteStart::read(Remote& remote, std::vector<Event>& events) {
  const auto tell = [&](const std::string& line) {
    remote.last = printable(line);
    events.push_back({.node = remote.node, .line = remote.last, .ended = false, .why = {}});
  };
  char buffer[4096];
  for (;;) {
    const ssize_t got = ::read(remote.ssh.output, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return;  // nothing more now
    if (got == 0) break;
    remote.text.append(buffer, got);
    for (size_t end; (end = remote.text.find('\n')) != remote.text.npos;) {
      tell(remote.text.substr(0, end));
      remote.text.erase(0, end + 1);
    }
    if (remote.text.size() > kMostLine) {
      tell(remote.text);
      remote.text.clear();
    }
  }
  if (!remote.text.empty()) tell(remote.text);
  events_.remove(remote.ssh.output);
  const ChildEnd end = finish(remote.ssh);
  const std::string how =
      end.signal != 0 ? fmt::format("its ssh was killed by signal {}", end.signal)
      : end.code == 0 ? "it has ended"
                      : fmt::format("{} ended with code {}", end.code == 255 ? "ssh" : "it", end.code);
  events.push_back({.node = remote.node,
                    .line = {},
                    .ended = true,
                    .why = remote.last.empty() ? how : fmt::format("{}: {}", how, remote.last)});
}

}  // namespace annulus
