// Child processes of the launcher: workers and helpers (planner, loader, scribe, checkpoint writer).
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>

namespace annulus {

// Remembers where the arguments of this process lie, so that set_process_name can show there. Call once in
// main.
void remember_arguments(int argc, char** argv);

// The name that ps and top show for this process, at most 15 characters in `comm`.
void set_process_name(const std::string& name);

struct ChildProcess {
  std::string name;
  pid_t pid = -1;
  int pidfd = -1;   // readable once the child has ended
  int output = -1;  // what the child writes into its end of the pipe
};

// Forks a child that runs `body` and ends with its result. The child leads its own process group (so Ctrl-C
// reaches the launcher alone), is killed when the launcher dies, has default signal handling, and carries
// `name`. `body` is given the writing end of a pipe. What it throws goes into the pipe as text: exit code 2
// for UserError, 1 otherwise. Throws UserError when no process can be had.
ChildProcess spawn(const std::string& name, const std::function<int(int output)>& body);

// How a child ended.
struct ChildEnd {
  int code = 0;        // exit code, or 128 + signal
  int signal = 0;      // 0: it exited
  std::string output;  // all that it wrote into the pipe and was not read yet
};

// Reads the pipe to its end, waits for the child and closes what belongs to it.
ChildEnd finish(ChildProcess& child);

// Runs `body` in a child and waits. Returns what it wrote. Throws UserError with the child's text when the
// child ended with code 2, std::runtime_error when it failed otherwise.
std::string run_helper(const std::string& name, const std::function<int(int output)>& body);

// Writes all of `text`, in as many calls as it takes. False when the reader is gone.
bool write_all(int fd, const std::string& text);

}  // namespace annulus
