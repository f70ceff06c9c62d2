#include "launcher/child_process.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "telemetry/error.h"
#include "tests/open_descriptors.h"

namespace annulus {
namespace {

ChildEnd run(const std::function<int(int)>& body) {
  ChildProcess child = spawn("annulus:test", body);
  return finish(child);
}

// Whether the process behind the pidfd has ended within ten seconds.
bool has_ended(int pidfd) {
  pollfd watch{pidfd, POLLIN, 0};
  return poll(&watch, 1, 10'000) == 1;
}

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

TEST(ChildProcess, ends_with_its_bodys_result) {
  for (const int code : {0, 1, 7, 255}) {
    const ChildEnd end = run([code](int) { return code; });
    EXPECT_EQ(end.code, code);
    EXPECT_EQ(end.signal, 0);
  }
}

TEST(ChildProcess, that_is_killed_names_its_signal) {
  for (const int signal : {SIGKILL, SIGTERM}) {
    const ChildEnd end = run([signal](int) {
      raise(signal);
      return 0;
    });
    EXPECT_EQ(end.signal, signal);
    EXPECT_EQ(end.code, 128 + signal);
  }
}

TEST(ChildProcess, hands_the_text_of_what_it_throws_through_the_pipe) {
  const ChildEnd user = run([](int) -> int { throw UserError("--workers 9: too many"); });
  EXPECT_EQ(user.code, 2);
  EXPECT_EQ(user.output, "--workers 9: too many");
  const ChildEnd other = run([](int) -> int { throw std::runtime_error("a bug"); });
  EXPECT_EQ(other.code, 1);
  EXPECT_EQ(other.output, "a bug");
}

TEST(ChildProcess, can_be_watched_by_its_pidfd) {
  int gate[2];
  ASSERT_EQ(pipe(gate), 0);
  ChildProcess child = spawn("annulus:test", [&](int) {
    char byte;
    close(gate[1]);
    return read(gate[0], &byte, 1) == 1 ? 0 : 1;
  });
  pollfd watch{child.pidfd, POLLIN, 0};
  EXPECT_EQ(poll(&watch, 1, 0), 0);
  EXPECT_EQ(write(gate[1], "x", 1), 1);
  EXPECT_TRUE(has_ended(child.pidfd));
  EXPECT_EQ(finish(child).code, 0);
  EXPECT_EQ(child.pid, -1);
  close(gate[0]);
  close(gate[1]);
}

TEST(ChildProcess, leads_its_own_process_group_with_default_signal_handling) {
  sigset_t blocked, before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  sigprocmask(SIG_BLOCK, &blocked, &before);
  const ChildEnd end = run([](int) {
    if (getpgrp() != getpid()) return 3;
    sigset_t mask;
    sigprocmask(SIG_SETMASK, nullptr, &mask);
    return sigismember(&mask, SIGTERM) ? 4 : 0;
  });
  sigprocmask(SIG_SETMASK, &before, nullptr);
  EXPECT_EQ(end.code, 0);
}

TEST(ChildProcess, is_killed_with_the_process_that_started_it) {
  ChildProcess launcher = spawn("annulus:test", [](int output) -> int {
    const ChildProcess worker = spawn("annulus:0", [](int) -> int {
      for (;;) pause();
    });
    write_all(output, std::to_string(worker.pid) + "\n");
    for (;;) pause();
  });
  std::string text;
  for (char byte = 0; byte != '\n' && read(launcher.output, &byte, 1) == 1;) text += byte;
  const pid_t worker = std::stoi(text);
  const int watch = static_cast<int>(syscall(SYS_pidfd_open, worker, 0));
  ASSERT_GE(watch, 0) << std::strerror(errno);
  kill(launcher.pid, SIGKILL);
  EXPECT_TRUE(has_ended(watch));
  kill(worker, SIGKILL);
  close(watch);
  EXPECT_EQ(finish(launcher).signal, SIGKILL);
}

TEST(ChildProcess, carries_its_name_for_ps_and_top) {
  // As main's arguments lie: one after another. Later tests name processes there, too.
  static char arguments[] = "annulus\0train\0--workers\0002";
  char* argv[] = {arguments, arguments + 8, arguments + 14, arguments + 24};
  remember_arguments(4, argv);
  const ChildEnd end = run([&](int output) {
    set_process_name("annulus:12");
    write_all(output, first_line("/proc/self/comm") + "|" + arguments + "|");
    for (std::size_t i = 0; i + 1 < sizeof arguments; ++i) {
      if (i >= std::strlen("annulus:12") && arguments[i] != 0) return 1;  // nothing of the old is left
    }
    return 0;
  });
  EXPECT_EQ(end.code, 0);
  EXPECT_EQ(end.output, "annulus:12|annulus:12|");
  EXPECT_STREQ(argv[1], "train") << "this process keeps its own";
}

TEST(ChildProcess, leaves_no_descriptor_open) {
  const int before = open_descriptors();
  run([](int) { return 0; });
  EXPECT_EQ(open_descriptors(), before);
}

TEST(RunHelper, returns_all_that_the_child_wrote_even_more_than_a_pipe_holds) {
  std::string text;
  for (int i = 0; i < 200'000; ++i) text += std::to_string(i);
  EXPECT_EQ(run_helper("annulus:test", [&](int output) { return write_all(output, text) ? 0 : 1; }), text);
}

TEST(RunHelper, throws_the_childs_user_error) {
  try {
    run_helper("annulus:test", [](int) -> int { throw UserError("--model x: unknown"); });
    FAIL();
  } catch (const UserError& error) {
    EXPECT_STREQ(error.what(), "--model x: unknown");
  }
}

TEST(RunHelper, says_how_a_child_failed_otherwise) {
  const auto failure_of = [](const std::function<int(int)>& body) -> std::string {
    try {
      run_helper("annulus:plan", body);
    } catch (const UserError&) {
      return "a user's error";
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "no failure";
  };
  EXPECT_EQ(failure_of([](int) -> int { throw std::runtime_error("no kernel"); }),
            "annulus:plan failed: no kernel");
  EXPECT_EQ(
      failure_of([](int) {
        raise(SIGKILL);
        return 0;
      }),
      "annulus:plan was killed by signal 9 (Killed); if nobody sent it, look for the out-of-memory killer "
      "(dmesg)");
}

TEST(WriteAll, says_when_the_reader_is_gone) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const auto before = signal(SIGPIPE, SIG_IGN);
  EXPECT_TRUE(write_all(ends[1], "a"));
  EXPECT_TRUE(write_all(ends[1], ""));
  close(ends[0]);
  EXPECT_FALSE(write_all(ends[1], "b"));
  close(ends[1]);
  signal(SIGPIPE, before);
}

}  // namespace
}  // namespace annulus
