#include "launcher/terminal.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <string>
#include <thread>

namespace annulus {
namespace {

using namespace std::chrono_literals;

// What can be read from `fd` without waiting.
std::string read_available(int fd) {
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  std::string text;
  char chunk[4096];
  for (ssize_t count; (count = read(fd, chunk, sizeof chunk)) > 0;)
    text.append(chunk, static_cast<size_t>(count));
  return text;
}

std::string numbered_lines(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += "line " + std::to_string(i) + std::string(90, '.') + "\n";
  return text;
}

// The sanity of every test here: whatever the terminal does, a blocked write ends the test by SIGALRM.
class TerminalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    setenv("TERM", "xterm", 1);
    alarm(60);
  }
  void TearDown() override { alarm(0); }
};

class PipeTest : public TerminalTest {
 protected:
  void SetUp() override {
    TerminalTest::SetUp();
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    reader_ = ends[0];
    writer_ = ends[1];
  }
  void TearDown() override {
    if (reader_ >= 0) close(reader_);
    close(writer_);
    TerminalTest::TearDown();
  }
  int reader_ = -1;
  int writer_ = -1;
};

class PtyTest : public TerminalTest {
 protected:
  void SetUp() override {
    TerminalTest::SetUp();
    winsize size{};
    size.ws_row = 24;
    size.ws_col = 20;
    ASSERT_EQ(openpty(&screen_, &writer_, nullptr, nullptr, &size), 0);
    termios mode{};
    tcgetattr(writer_, &mode);
    mode.c_oflag &= ~static_cast<tcflag_t>(OPOST);  // newlines as they are written
    tcsetattr(writer_, TCSANOW, &mode);
  }
  void TearDown() override {
    if (screen_ >= 0) close(screen_);
    close(writer_);
    TerminalTest::TearDown();
  }
  int screen_ = -1;
  int writer_ = -1;
};

TEST_F(PipeTest, LinesArePlainAndStatusIsRare) {
  Terminal terminal(writer_, {.plain_status_interval = 1h});
  EXPECT_FALSE(terminal.redraws());
  terminal.status("step 1");
  terminal.status("step 2");
  terminal.line("epoch 1");
  terminal.status("step 3");
  terminal.finish(0ms);
  EXPECT_EQ(read_available(reader_), "step 1\nepoch 1\n");
}

TEST_F(PipeTest, StatusComesAgainAfterTheInterval) {
  Terminal terminal(writer_, {.plain_status_interval = 1ms});
  terminal.status("step 1");
  std::this_thread::sleep_for(5ms);
  terminal.status("step 2");
  EXPECT_EQ(read_available(reader_), "step 1\nstep 2\n");
}

TEST_F(PipeTest, TheLastStatusIsToldOnce) {
  Terminal terminal(writer_, {.plain_status_interval = 0ms});
  terminal.status("step 1");
  terminal.status("step 1");
  terminal.end_status("step 1");
  EXPECT_EQ(read_available(reader_), "step 1\n");
  terminal.end_status("step 2");
  EXPECT_EQ(read_available(reader_), "step 2\n");
}

TEST_F(PipeTest, LinesWaitForASlowReaderAndArriveInOrder) {
  const std::string expected = numbered_lines(3000);  // several times what a pipe holds
  std::string text;
  {
    Terminal terminal(writer_);
    for (size_t at = 0; at < expected.size();) {
      const size_t end = expected.find('\n', at);
      terminal.line(std::string_view(expected).substr(at, end - at));
      at = end + 1;
    }
    terminal.status("dropped, as lines wait");
    std::thread slow([&] {
      char chunk[1000];
      for (ssize_t count; (count = read(reader_, chunk, sizeof chunk)) > 0;) {
        text.append(chunk, static_cast<size_t>(count));
        if (text.size() >= expected.size()) break;
      }
    });
    terminal.finish(0ms);
    slow.join();
    EXPECT_EQ(terminal.dropped_lines(), 0u);
  }
  EXPECT_TRUE(text == expected) << text.size() << " of " << expected.size() << " bytes";
}

TEST_F(PipeTest, AFullQueueDropsLinesAndSaysHowMany) {
  Terminal terminal(writer_, {.queue_bytes = 10000});
  const std::string line(99, 'x');
  for (int i = 0; i < 3000; ++i) terminal.line(line);
  const uint64_t dropped = terminal.dropped_lines();
  EXPECT_GT(dropped, 1000u);
  std::string text;
  for (int i = 0; i < 100; ++i) {
    text += read_available(reader_);
    terminal.flush();
  }
  const std::string report = "(" + std::to_string(dropped) + " lines were dropped while nobody read)\n";
  EXPECT_TRUE(text.ends_with(report)) << text.substr(text.size() - 200);
  EXPECT_EQ((text.size() - report.size()) % 100, 0u);
  EXPECT_EQ((text.size() - report.size()) / 100 + dropped, 3000u);
}

TEST_F(PipeTest, TheCallersDescriptorStaysBlocking) {
  Terminal terminal(writer_);
  terminal.line("text");
  EXPECT_EQ(fcntl(writer_, F_GETFL) & O_NONBLOCK, 0);
}

TEST_F(PipeTest, AReaderThatHasGoneIsNoFailure) {
  std::signal(SIGPIPE, SIG_DFL);
  Terminal terminal(writer_);
  terminal.line("read");
  close(reader_);
  reader_ = -1;
  for (int i = 0; i < 10; ++i) terminal.line("not read");
  terminal.status("not read");
  terminal.finish(1h);
}

TEST_F(TerminalTest, AClosedDescriptorIsNoFailure) {
  Terminal terminal(987);
  terminal.line("text");
  terminal.status("text");
  terminal.finish(1h);
}

TEST_F(TerminalTest, AFileIsWrittenWhereItStands) {
  FILE* file = tmpfile();
  ASSERT_NE(file, nullptr);
  const int fd = fileno(file);
  ASSERT_EQ(write(fd, "before\n", 7), 7);
  Terminal terminal(fd);
  terminal.line("after");
  terminal.finish(0ms);
  lseek(fd, 0, SEEK_SET);
  EXPECT_EQ(read_available(fd), "before\nafter\n");
  fclose(file);
}

TEST_F(PtyTest, TheStatusRedrawsBelowTheLines) {
  Terminal terminal(writer_);
  EXPECT_TRUE(terminal.redraws());
  terminal.status("step 1");
  terminal.status("step 2");
  terminal.line("epoch 1");
  terminal.finish(1s);
  EXPECT_EQ(read_available(screen_), "\r\x1b[Kstep 1\r\x1b[Kstep 2\r\x1b[Kepoch 1\nstep 2\r\x1b[K");
}

TEST_F(PtyTest, TheLastStatusStaysAsALine) {
  Terminal terminal(writer_);
  terminal.status("step 1");
  terminal.end_status("step 1");
  terminal.line("done");
  EXPECT_EQ(read_available(screen_), "\r\x1b[Kstep 1\r\x1b[Kstep 1\ndone\n");
}

TEST_F(PtyTest, TheStatusIsCutToTheWidth) {
  Terminal terminal(writer_);
  terminal.status("0123456789012345678901234567890");
  terminal.status("\xc3\xa9 345\n789012345678901234567890");
  winsize size{};
  size.ws_col = 5;
  ioctl(screen_, TIOCSWINSZ, &size);
  terminal.status("0123456789");
  EXPECT_EQ(read_available(screen_),
            "\r\x1b[K0123456789012345678\r\x1b[K\xc3\xa9 345 7890123456789\r\x1b[K0123");
}

TEST_F(PtyTest, ADumbTerminalGetsPlainLines) {
  setenv("TERM", "dumb", 1);
  Terminal terminal(writer_);
  EXPECT_FALSE(terminal.redraws());
  terminal.status("step 1");
  terminal.finish(1s);
  EXPECT_EQ(read_available(screen_), "step 1\n");
}

TEST_F(PtyTest, AStoppedTerminalStopsNobody) {
  Terminal terminal(writer_);
  terminal.status("before");
  ASSERT_EQ(tcflow(writer_, TCOOFF), 0);  // what Ctrl-S does
  for (int i = 0; i < 5000; ++i) {
    terminal.line(std::to_string(i));
    terminal.status("status");
  }
  const auto start = std::chrono::steady_clock::now();
  terminal.finish(50ms);
  EXPECT_GE(std::chrono::steady_clock::now() - start, 50ms);
  EXPECT_EQ(read_available(screen_), "\r\x1b[Kbefore");

  ASSERT_EQ(tcflow(writer_, TCOON), 0);
  std::string text;
  for (int i = 0; i < 1000 && text.find("4999\n") == text.npos; ++i) {
    terminal.flush();
    std::this_thread::sleep_for(1ms);
    text += read_available(screen_);
  }
  std::string expected = "\r\x1b[K";
  for (int i = 0; i < 5000; ++i) expected += std::to_string(i) + "\n";
  EXPECT_EQ(text.substr(0, expected.size()), expected);
}

TEST_F(PtyTest, ATerminalThatNobodyReadsStopsNobody) {
  Terminal terminal(writer_);
  for (int i = 0; i < 5000; ++i) {
    terminal.line(std::string(100, 'x'));
    terminal.status("status");
  }
  terminal.finish(1ms);
  EXPECT_FALSE(read_available(screen_).empty());
}

TEST_F(PtyTest, ATerminalThatHasGoneIsNoFailure) {
  std::signal(SIGHUP, SIG_IGN);
  Terminal terminal(writer_);
  close(screen_);
  screen_ = -1;
  terminal.line("text");
  terminal.finish(1h);
}

}  // namespace
}  // namespace annulus
