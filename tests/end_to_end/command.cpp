#include "tests/end_to_end/command.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

namespace annulus {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kWatchdog{120};
constexpr std::chrono::milliseconds kPoll{2};

struct Parsed {
  ProcessView view;
  pid_t parent;
};

std::vector<Parsed> all_processes() {
  std::vector<Parsed> all;
  for (const fs::directory_entry& entry : fs::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    // "12 (annulus:3) S 7 ...": the name may hold anything, so what follows it is found from the end.
    const std::string stat = read_file(entry.path() / "stat");
    const std::size_t open = stat.find('('), close = stat.rfind(')');
    if (open == std::string::npos || close == std::string::npos) continue;
    std::istringstream rest(stat.substr(close + 1));
    Parsed process{{std::stoi(name), stat.substr(open + 1, close - open - 1), {}, '?'}, 0};
    rest >> process.view.state >> process.parent;
    process.view.title = read_file(entry.path() / "cmdline").c_str();
    all.push_back(std::move(process));
  }
  return all;
}

// Everything below this process that has not ended; below `top`, and that itself, if it is another.
std::vector<ProcessView> processes_below(pid_t top = getpid()) {
  const std::vector<Parsed> all = all_processes();
  std::set<pid_t> below = {top};
  for (std::size_t before = 0; before != below.size();) {
    before = below.size();
    for (const Parsed& process : all) {
      if (below.count(process.parent) != 0) below.insert(process.view.pid);
    }
  }
  std::vector<ProcessView> views;
  for (const Parsed& process : all) {
    if (process.view.pid == getpid() || below.count(process.view.pid) == 0) continue;
    if (process.view.state != 'Z' && process.view.state != 'X') views.push_back(process.view);
  }
  return views;
}

void append(std::string& text, int& fd) {
  char buffer[65536];
  const ssize_t got = read(fd, buffer, sizeof buffer);
  if (got > 0) {
    text.append(buffer, got);
  } else if (got == 0 || (errno != EINTR && errno != EAGAIN)) {  // EIO: nobody holds the terminal any more
    close(fd);
    fd = -1;
  }
}

struct Ends {
  int in, out, err;        // the command's
  int read_out, read_err;  // the test's
  int cgroup;              // the file to write to for joining it; -1: none
  int network;             // namespace; -1: the test's own
};

// Leaves no room in a pipe.
void fill(int pipe) {
  const std::string page(4096, '.');
  fcntl(pipe, F_SETFL, O_NONBLOCK);
  while (write(pipe, page.data(), page.size()) > 0) {
  }
  fcntl(pipe, F_SETFL, 0);
}

Ends open_ends(const CommandOptions& options) {
  Ends ends{};
  int pipe_ends[2];
  EXPECT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
  ends.read_err = pipe_ends[0];
  ends.err = pipe_ends[1];
  ends.cgroup = ends.network = -1;
  if (!options.network.empty()) {
    ends.network = open(("/run/netns/" + options.network).c_str(), O_RDONLY | O_CLOEXEC);
    EXPECT_GE(ends.network, 0);
  }
  if (!options.cgroup.empty()) {
    ends.cgroup = open((options.cgroup / "cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC);
    EXPECT_GE(ends.cgroup, 0);
  }
  if (options.terminal) {
    winsize size{.ws_row = 50, .ws_col = 200, .ws_xpixel = 0, .ws_ypixel = 0};
    EXPECT_EQ(openpty(&ends.read_out, &ends.in, nullptr, nullptr, &size), 0);
    fcntl(ends.read_out, F_SETFD, FD_CLOEXEC);
    fcntl(ends.in, F_SETFD, FD_CLOEXEC);
    ends.out = ends.in;
  } else {
    EXPECT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
    ends.read_out = pipe_ends[0];
    ends.out = pipe_ends[1];
    ends.in = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (!options.reads) fill(ends.out);
  }
  return ends;
}

// In the forked process: only calls that are safe there.
[[noreturn]] void become(const CommandOptions& options, const Ends& ends, char** argv, char** environment) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  setsid();
  if (options.terminal) ioctl(ends.in, TIOCSCTTY, 0);
  dup2(ends.in, 0);
  dup2(ends.out, 1);
  dup2(ends.err, 2);
  if (!options.directory.empty() && chdir(options.directory.c_str()) != 0) _exit(126);
  if (!options.cpus.empty()) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (const int cpu : options.cpus) CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) _exit(126);
  }
  if (ends.network >= 0 && setns(ends.network, CLONE_NEWNET) != 0) _exit(126);
  if (ends.cgroup >= 0 && write(ends.cgroup, "0", 1) != 1) _exit(126);
  for (const int signal : options.ignored_signals) ::signal(signal, SIG_IGN);
  for (const auto& [resource, limit] : options.limits) {
    const rlimit both{limit, limit};
    setrlimit(resource, &both);
  }
  if (options.closes_standard_streams) {
    for (int fd = 0; fd < 3; ++fd) close(fd);
  }
  execve(argv[0], argv, environment);
  _exit(127);
}

}  // namespace

std::string Ended::line(const std::string& prefix) const {
  std::istringstream lines(out);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind(prefix, 0) == 0) return line.substr(prefix.size());
  }
  return "";
}

std::string Ended::weights() const { return line("weights xxh64="); }

Command::Command(const std::vector<std::string>& arguments, const CommandOptions& options)
    : reads_(options.reads), several_(options.several) {
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  std::vector<std::string> words = {ANNULUS_PROGRAM};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<std::string> variables = options.environment;
  for (char** variable = environ; *variable != nullptr; ++variable) variables.emplace_back(*variable);
  std::vector<char*> argv, environment;
  for (std::string& word : words) argv.push_back(word.data());
  for (std::string& variable : variables) environment.push_back(variable.data());
  argv.push_back(nullptr);
  environment.push_back(nullptr);

  const Ends ends = open_ends(options);
  pid_ = fork();
  if (pid_ == 0) become(options, ends, argv.data(), environment.data());
  EXPECT_GT(pid_, 0);
  close(ends.in);
  if (ends.out != ends.in) close(ends.out);
  close(ends.err);
  if (ends.cgroup >= 0) close(ends.cgroup);
  if (ends.network >= 0) close(ends.network);
  stdout_ = ends.read_out;
  stderr_ = ends.read_err;
  reader_ = std::thread([this] { read_outputs(); });
}

Command::~Command() {
  if (!collected_) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  if (!several_) {
    for (const ProcessView& process : processes_below()) kill(process.pid, SIGKILL);
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
  }
  last_words_ = true;
  if (reader_.joinable()) reader_.join();
  if (stdout_ >= 0) close(stdout_);
  if (stderr_ >= 0) close(stderr_);
}

// The reading thread. After the command's end it takes what is there and leaves: a process that was left
// behind may hold the other end open.
void Command::read_outputs() {
  for (;;) {
    const bool last = last_words_;
    pollfd watched[2] = {{reads_ ? stdout_ : -1, POLLIN, 0}, {stderr_, POLLIN, 0}};
    const int ready = poll(watched, 2, last ? 0 : 10);
    const std::lock_guard lock(mutex_);
    if (close_stdout_ && stdout_ >= 0) {
      close(stdout_);
      stdout_ = -1;
      continue;
    }
    if (watched[0].revents != 0) append(out_, stdout_);
    if (watched[1].revents != 0) append(err_, stderr_);
    if (last && ready <= 0) return;
  }
}

std::string Command::out() const {
  const std::lock_guard lock(mutex_);
  return out_;
}

std::string Command::err() const {
  const std::lock_guard lock(mutex_);
  return err_;
}

void Command::type(const std::string& keys) const {
  EXPECT_EQ(write(stdout_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
}

void Command::close_stdout() {
  close_stdout_ = true;
  wait_until("the closed stdout", [&] {
    const std::lock_guard lock(mutex_);
    return stdout_ < 0;
  });
}

std::vector<ProcessView> Command::processes() const { return processes_below(several_ ? pid_ : getpid()); }

pid_t Command::process(const std::string& name) const {
  for (const ProcessView& process : processes()) {
    if (process.name == name) return process.pid;
  }
  return 0;
}

pid_t Command::signal(const std::string& name, int signal) const {
  const pid_t target = process(name);
  EXPECT_GT(target, 0) << "there is no " << name;
  if (target > 0) kill(target, signal);  // 0 would be the test itself
  return target;
}

bool Command::ended() {
  if (!collected_) collected_ = waitpid(pid_, &status_, WNOHANG) == pid_;
  return collected_;
}

bool Command::wait_until(const std::string& what, const std::function<bool()>& condition) {
  for (const auto deadline = Clock::now() + kWatchdog / 2; Clock::now() < deadline;) {
    if (condition()) return true;
    if (ended()) {
      if (condition()) return true;
      ADD_FAILURE() << "the command ended before " << what << "\n" << out() << err();
      return false;
    }
    std::this_thread::sleep_for(kPoll);
  }
  ADD_FAILURE() << "waited in vain for " << what << "\n" << out() << err();
  return false;
}

Ended Command::wait() {
  const auto deadline = Clock::now() + kWatchdog;
  while (!ended() && Clock::now() < deadline) std::this_thread::sleep_for(kPoll);
  if (!collected_) {
    ADD_FAILURE() << "the command did not end\n" << out() << err();
    kill(pid_, SIGKILL);
    waitpid(pid_, &status_, 0);
    collected_ = true;
  }
  Ended end;
  if (!several_) end.left = processes_below();
  last_words_ = true;
  reader_.join();
  end.code = WIFSIGNALED(status_) ? 128 + WTERMSIG(status_) : WEXITSTATUS(status_);
  end.out = out();
  end.err = err();
  return end;
}

Ended run_annulus(const std::vector<std::string>& arguments, const CommandOptions& options) {
  return Command(arguments, options).wait();
}

bool lacks_bf16() {
  const Ended end = run_annulus({"topo", "--dataset", "synthetic", "--model", "mlp", "--precision", "bf16"});
  if (end.code == 2 && end.err.find("AVX-512") != std::string::npos) return true;
  EXPECT_EQ(end.code, 0) << end.out << end.err;
  return false;
}

void expect_no_process_left() {
  for (const auto deadline = Clock::now() + kWatchdog / 4; !processes_below().empty();) {
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    if (Clock::now() > deadline) break;
    std::this_thread::sleep_for(kPoll);
  }
  for (const ProcessView& process : processes_below()) ADD_FAILURE() << process.name << " is left";
}

ScratchDirectory::ScratchDirectory() {
  std::string name = fs::path(::testing::TempDir()) / "annulus_e2e_XXXXXX";
  EXPECT_NE(mkdtemp(name.data()), nullptr);
  path_ = fs::canonical(name);
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

CommandOptions ScratchDirectory::here() const {
  CommandOptions options;
  options.directory = path_;
  return options;
}

std::vector<std::string> ScratchDirectory::content() const {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(path_)) {
    names.push_back(entry.path().lexically_relative(path_));
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string read_file(const fs::path& path) {
  // Not a stream: those throw when a process goes away while its files in /proc are read.
  std::string content;
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  char buffer[65536];
  for (ssize_t got; file >= 0 && (got = read(file, buffer, sizeof buffer)) > 0;) content.append(buffer, got);
  if (file >= 0) close(file);
  return content;
}

void write_file(const fs::path& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

std::vector<std::string> with(std::vector<std::string> command, const std::vector<std::string>& flags) {
  for (std::size_t i = 0; i + 1 < flags.size(); i += 2) {
    const auto given = std::find(command.begin(), command.end(), flags[i]);
    if (given != command.end()) {
      given[1] = flags[i + 1];
    } else {
      command.insert(command.end(), {flags[i], flags[i + 1]});
    }
  }
  return command;
}

}  // namespace annulus
