// Runs the real command, as a user would, and sees what it leaves behind.
//
// The test process becomes the parent of every orphan below it (PR_SET_CHILD_SUBREAPER), so a process that
// outlives its command is found, whatever became of the processes between. One command runs at a time, unless
// CommandOptions says otherwise.
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <atomic>
#include <filesystem>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace annulus {

// A process below the test, as /proc shows it.
struct ProcessView {
  pid_t pid;
  std::string name;   // /proc/PID/comm
  std::string title;  // the first word of /proc/PID/cmdline
  char state;         // R running, S sleeping, T stopped, Z ended and not collected, ...
};

// How a command ended.
struct Ended {
  int code = 0;  // as a shell shows it: 128 + number when a signal ended it
  std::string out, err;
  std::vector<ProcessView> left;  // processes that were still there when it had ended

  // What follows `prefix` in the first line of `out` that begins with it; "" without one.
  std::string line(const std::string& prefix) const;
  // The checksum of the summary, 16 hexadecimal digits.
  std::string weights() const;
};

struct CommandOptions {
  std::filesystem::path directory;             // to run in; empty: the test's own
  std::vector<std::string> environment;        // NAME=VALUE, added to the test's own
  std::vector<int> cpus;                       // the command may use; empty: as the test
  std::vector<int> ignored_signals;            // as nohup ignores SIGHUP
  std::vector<std::pair<int, rlim_t>> limits;  // RLIMIT_..., as ulimit sets them
  bool closes_standard_streams = false;        // the command starts without file descriptors 0, 1 and 2
  std::filesystem::path cgroup;                // to run in; empty: the test's own
  std::string network;    // namespace, as `ip netns` names it, to run in; empty: the test's own
  bool several = false;   // other commands run meanwhile: what is left of this one is not looked at
  bool terminal = false;  // stdin and stdout are a pseudo-terminal of 200 columns, stderr a pipe
  bool reads = true;      // take what the command prints; else its pipe is full from the start
};

// A command under way. Whatever is left of it is killed at the end of this object's life.
class Command {
 public:
  // The program under test with `arguments`.
  explicit Command(const std::vector<std::string>& arguments, const CommandOptions& options = {});
  ~Command();
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  pid_t pid() const { return pid_; }
  std::string out() const;
  std::string err() const;
  // Types on the terminal.
  void type(const std::string& keys) const;
  // Closes the reading end of stdout, as `head` does when it has seen enough.
  void close_stdout();

  // The processes below the test, the command itself among them; of several commands those below this one.
  std::vector<ProcessView> processes() const;
  // The process with this name; 0: there is none now.
  pid_t process(const std::string& name) const;

  // Sends a signal to the process with this name, and returns its number; without one the test fails.
  pid_t signal(const std::string& name, int signal) const;

  // Whether the command has ended.
  bool ended();

  // Waits until `condition` holds. False, with a failure of the test, when the command ended or a minute
  // passed before. `what` says what is awaited.
  bool wait_until(const std::string& what, const std::function<bool()>& condition);
  // Waits for the end of the command. Kills it, with a failure of the test, after two minutes.
  Ended wait();

 private:
  void read_outputs();

  pid_t pid_ = -1;
  bool collected_ = false;
  int status_ = 0;
  int stdout_ = -1, stderr_ = -1;
  bool reads_, several_;
  std::atomic<bool> close_stdout_{false}, last_words_{false};
  mutable std::mutex mutex_;
  std::string out_, err_;
  std::thread reader_;
};

// Runs the program to its end.
Ended run_annulus(const std::vector<std::string>& arguments, const CommandOptions& options = {});

// Whether --precision bf16 is refused because the processor has no AVX-512. Fails the test where anything
// else is wrong with it.
bool lacks_bf16();

// Expects that processes which a killed launcher left are gone soon: the kernel ends them, but not at once.
void expect_no_process_left();

// A directory that lives as long as the test, and options to run a command in it.
class ScratchDirectory {
 public:
  ScratchDirectory();
  ~ScratchDirectory();
  const std::filesystem::path& path() const { return path_; }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  CommandOptions here() const;
  // Names of all files and directories in it, at any depth.
  std::vector<std::string> content() const;

 private:
  std::filesystem::path path_;
};

// What is in the file, as far as it can be read; "" where there is none.
std::string read_file(const std::filesystem::path& path);
void write_file(const std::filesystem::path& path, const std::string& content);

// The command with these flags, each followed by its value; a flag that it has already gets the new value.
std::vector<std::string> with(std::vector<std::string> command, const std::vector<std::string>& flags);

}  // namespace annulus
