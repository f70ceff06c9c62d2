#include "launcher/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>

#include "telemetry/error.h"

namespace annulus {
namespace {

char* arguments_begin = nullptr;
std::size_t arguments_bytes = 0;

[[noreturn]] void run_child(const std::string& name, const std::function<int(int)>& body, pid_t launcher,
                            int output) {
  // Order matters: after prctl the kernel kills this process with its parent; a parent that died before is
  // seen here.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != launcher) _exit(1);
  setpgid(0, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  set_process_name(name);
  int code = 1;
  try {
    code = body(output);
  } catch (const UserError& error) {
    write_all(output, error.what());
    code = 2;
  } catch (const std::exception& error) {
    write_all(output, error.what());
  }
  std::fflush(nullptr);
  _exit(code);
}

}  // namespace

void remember_arguments(int argc, char** argv) {
  arguments_begin = argv[0];
  arguments_bytes = argv[argc - 1] + std::strlen(argv[argc - 1]) - argv[0];
}

void set_process_name(const std::string& name) {
  prctl(PR_SET_NAME, name.c_str());
  if (name.size() > arguments_bytes) return;
  std::memset(arguments_begin, 0, arguments_bytes);
  std::memcpy(arguments_begin, name.data(), name.size());
}

ChildProcess spawn(const std::string& name, const std::function<int(int output)>& body) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    throw UserError::format("cannot start {}: {}; raise the limit of open files (ulimit -n)", name,
                            std::strerror(errno));
  }
  std::fflush(nullptr);
  const pid_t launcher = getpid();
  const pid_t pid = fork();
  if (pid < 0) {
    const int error = errno;
    close(ends[0]);
    close(ends[1]);
    throw UserError::format(
        "cannot start {}: {}; free memory or raise the limit on processes (ulimit -u, pids.max)", name,
        std::strerror(error));
  }
  if (pid == 0) {
    close(ends[0]);
    run_child(name, body, launcher, ends[1]);
  }
  close(ends[1]);
  setpgid(pid, pid);  // also here: whoever comes first, the group is set before the launcher goes on
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (pidfd < 0) {
    const int error = errno;
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    close(ends[0]);
    throw UserError::format(
        "cannot watch {}: pidfd_open: {}; {}", name, std::strerror(error),
        error == ENOSYS ? "Linux 5.3 or newer is needed" : "raise the limit of open files (ulimit -n)");
  }
  return {name, pid, pidfd, ends[0]};
}

ChildEnd finish(ChildProcess& child) {
  ChildEnd end;
  char buffer[65536];
  for (;;) {
    const ssize_t got = read(child.output, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    end.output.append(buffer, got);
  }
  int status = 0;
  while (waitpid(child.pid, &status, 0) < 0 && errno == EINTR) {
  }
  end.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  end.code = WIFSIGNALED(status) ? 128 + end.signal : WEXITSTATUS(status);
  close(child.output);
  close(child.pidfd);
  child.pid = child.pidfd = child.output = -1;
  return end;
}

std::string run_helper(const std::string& name, const std::function<int(int output)>& body) {
  ChildProcess child = spawn(name, body);
  ChildEnd end = finish(child);
  if (end.code == 0) return std::move(end.output);
  if (end.code == 2) throw UserError(end.output);
  throw std::runtime_error(
      end.signal != 0
          ? fmt::format(
                "{} was killed by signal {} ({}); if nobody sent it, look for the out-of-memory killer "
                "(dmesg)",
                name, end.signal, strsignal(end.signal))
          : fmt::format("{} failed: {}", name, end.output));
}

bool write_all(int fd, const std::string& text) {
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t wrote = write(fd, text.data() + done, text.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return false;
    done += wrote;
  }
  return true;
}

}  // namespace annulus
