#include "runtime/durable_file.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/open_descriptors.h"
#include "tests/runtime/data_files.h"
#include "tests/runtime/faulty_calls.h"

namespace annulus {
namespace {

namespace fs = std::filesystem;

std::string content(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

std::vector<std::string> names(const TempDir& directory) {
  std::vector<std::string> all;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory.path())) {
    all.push_back(entry.path().filename());
  }
  std::sort(all.begin(), all.end());
  return all;
}

void write_new(const std::string& path, FileCalls& calls) {
  const std::string first = "new ", second = "con0ent";
  DurableFile file(path, calls);
  file.write(std::as_bytes(std::span(first)));
  file.write(std::as_bytes(std::span(second)));
  file.patch(7, std::as_bytes(std::span("t", 1)));
  file.commit();
}
constexpr const char* kNew = "new content";

class DurableFileTest : public testing::Test {
 protected:
  DurableFileTest() { std::ofstream(path_) << "old"; }
  TempDir directory_;
  std::string path_ = directory_.path("file");
};

TEST_F(DurableFileTest, HasItsContentAndLeavesNothingElse) {
  write_new(path_, posix_calls());
  EXPECT_EQ(content(path_), kNew);
  EXPECT_EQ(names(directory_), std::vector<std::string>{"file"});
}

TEST_F(DurableFileTest, IsNotSeenBeforeItIsCommitted) {
  {
    DurableFile file(path_, posix_calls());
    file.write(std::as_bytes(std::span("x", 1)));
    EXPECT_EQ(content(path_), "old");
  }
  EXPECT_EQ(content(path_), "old");
  EXPECT_EQ(names(directory_), std::vector<std::string>{"file"});
}

TEST_F(DurableFileTest, IsOnTheDiskBeforeItHasItsNameAndHasThatBeforeItIsDone) {
  FaultyCalls calls;
  write_new(path_, calls);
  // What no crash of a process can show, because the kernel outlives it.
  EXPECT_EQ(calls.log(), (std::vector<std::string>{"unlink", "open", "write", "write", "pwrite", "fdatasync",
                                                   "close", "rename", "open", "fsync", "close"}));
}

TEST_F(DurableFileTest, IsSyncedByPortionsAndShowsProgressAtEach) {
  FaultyCalls calls;
  int beats = 0;
  std::string large(2 * DurableFile::kPortion + 100, 'x');
  for (size_t i = 0; i < large.size(); i += 4093) large[i] = static_cast<char>('a' + i % 26);
  {
    DurableFile file(path_, calls, [&] { ++beats; });
    file.write(std::as_bytes(std::span(large).first(1000)));
    file.write(std::as_bytes(std::span(large).subspan(1000)));
    file.commit();
  }
  EXPECT_EQ(content(path_), large);
  EXPECT_EQ(beats, 3);
  EXPECT_EQ(std::ranges::count(calls.log(), "fdatasync"), 3);
}

TEST_F(DurableFileTest, FailsWholeAtEveryCallAndSaysWhich) {
  struct Named {
    const char* call;
    const char* text;
    int calls;
  };
  for (const Named& named :
       {Named{"open", "open", 2}, Named{"write", "write", 2}, Named{"pwrite", "pwrite", 1},
        Named{"fdatasync", "fdatasync", 1}, Named{"close", "close", 1}, Named{"rename", "rename", 1},
        Named{"fsync", "fsync of its directory", 1}}) {
    for (const int code : {EIO, ENOSPC, EACCES}) {
      int n = 1;
      for (;; ++n) {
        SCOPED_TRACE(named.call + (" " + std::to_string(n)));
        std::ofstream(path_) << "old";
        const int open_before = open_descriptors();
        FaultyCalls calls(named.call, n, Fault::kError, code);
        bool threw = false;
        try {
          write_new(path_, calls);
        } catch (const FileError& error) {
          threw = true;
          EXPECT_EQ(error.code(), code);
          EXPECT_CONTAINS(error.what(), "cannot write " + path_ + ": ");
          EXPECT_CONTAINS(error.what(), named.text);
          EXPECT_CONTAINS(error.what(), std::strerror(code));
          EXPECT_CONTAINS(error.what(), code == ENOSPC ? "free space" : "choose a");
        }
        EXPECT_EQ(open_descriptors(), open_before);
        EXPECT_EQ(names(directory_), std::vector<std::string>{"file"});
        if (!calls.happened() || !threw) break;
        // Only the directory was not synced.
        const bool renamed =
            std::ranges::count(calls.log(), "rename") > 0 && named.call != std::string("rename");
        EXPECT_EQ(content(path_), renamed ? kNew : "old");
      }
      EXPECT_EQ(n, named.calls + 1) << named.call;
      EXPECT_EQ(content(path_), kNew);
    }
  }
}

TEST_F(DurableFileTest, GoesOnAfterShortWritesAndSignals) {
  for (const char* call : {"open", "write", "pwrite", "fdatasync", "fsync"}) {
    FaultyCalls calls(call, 1, Fault::kInterrupted);
    write_new(path_, calls);
    EXPECT_TRUE(calls.happened());
    EXPECT_EQ(content(path_), kNew);
    fs::remove(path_);
  }
  FaultyCalls calls("write", 1, Fault::kShort);
  write_new(path_, calls);
  EXPECT_EQ(content(path_), kNew);
  EXPECT_EQ(std::ranges::count(calls.log(), "write"), 11);
}

TEST_F(DurableFileTest, ADiskThatFillsUpInTheMiddleOfAWriteLeavesTheOldFile) {
  FaultyCalls calls("write", 1, Fault::kFull, ENOSPC);
  EXPECT_THROW(write_new(path_, calls), FileError);
  EXPECT_EQ(content(path_), "old");
  EXPECT_EQ(names(directory_), std::vector<std::string>{"file"});
}

TEST_F(DurableFileTest, IsOldOrNewWheneverTheProcessIsKilled) {
  const int calls_of_all = [&] {
    FaultyCalls calls;
    write_new(path_, calls);
    return static_cast<int>(calls.log().size());
  }();
  for (const Fault fault : {Fault::kKilledBefore, Fault::kKilledHalfway, Fault::kKilledBehind}) {
    int old = 0;
    for (int n = 1; n <= calls_of_all; ++n) {
      std::ofstream(path_) << "old";
      const pid_t child = fork();
      if (child == 0) {
        FaultyCalls calls("", n, fault);
        write_new(path_, calls);
        _exit(0);
      }
      int status = 0;
      ASSERT_EQ(waitpid(child, &status, 0), child);
      ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << n;
      const std::string now = content(path_);
      EXPECT_TRUE(now == "old" || now == kNew) << n << ": " << now;
      old += now == "old";
      // Whatever was left is no hindrance.
      write_new(path_, posix_calls());
      EXPECT_EQ(content(path_), kNew);
      EXPECT_EQ(names(directory_), std::vector<std::string>{"file"});
    }
    EXPECT_EQ(old, fault == Fault::kKilledBefore ? 8 : 7);  // the rename is the eighth call
  }
}

TEST_F(DurableFileTest, DoesNotWriteThroughALinkInThePlaceOfItsTemporary) {
  std::ofstream(directory_.path("victim")) << "precious";
  fs::create_symlink(directory_.path("victim"), directory_.path(".file.tmp"));
  write_new(path_, posix_calls());
  EXPECT_EQ(content(directory_.path("victim")), "precious");
  EXPECT_EQ(content(path_), kNew);
  // Nor where the link cannot be taken away.
  fs::create_symlink(directory_.path("victim"), directory_.path(".file.tmp"));
  FaultyCalls calls("unlink", 1, Fault::kError, EACCES);
  EXPECT_CONTAINS(user_error([&] { write_new(path_, calls); }), "open: File exists");
  EXPECT_EQ(content(directory_.path("victim")), "precious");
}

TEST_F(DurableFileTest, ImpossiblePlacesAreRefusedWithARemedy) {
  EXPECT_CONTAINS(user_error([&] { write_new(directory_.path("none/file"), posix_calls()); }),
                  "make the directory first");
  EXPECT_CONTAINS(user_error([&] { write_new(path_ + "/file", posix_calls()); }), "Not a directory");
  EXPECT_CONTAINS(user_error([&] { write_new(directory_.path() + "/", posix_calls()); }), "names no file");
  EXPECT_CONTAINS(user_error([&] { write_new(directory_.path(std::string(255, 'x')), posix_calls()); }),
                  "choose a shorter name");
}

TEST_F(DurableFileTest, WithoutADirectoryMeansTheWorkingDirectory) {
  const fs::path before = fs::current_path();
  fs::current_path(directory_.path());
  write_new("here", posix_calls());
  fs::current_path(before);
  EXPECT_EQ(content(directory_.path("here")), kNew);
}

TEST_F(DurableFileTest, TemporariesOfEarlierCrashesGoIfTheyAreOurs) {
  for (const char* name :
       {".mine1.tmp", ".mine2.tmp", ".other.tmp", "mine3.tmp", ".mine4", ".tmp", ".mine5.tmp.x"}) {
    std::ofstream(directory_.path(name)) << "x";
  }
  remove_temporaries(
      directory_.path(), [](const std::string& name) { return name.starts_with("mine"); }, posix_calls());
  EXPECT_EQ(names(directory_),
            (std::vector<std::string>{".mine4", ".mine5.tmp.x", ".other.tmp", ".tmp", "file", "mine3.tmp"}));
  remove_temporaries(
      directory_.path("none"), [](const std::string&) { return true; }, posix_calls());
}

}  // namespace
}  // namespace annulus
