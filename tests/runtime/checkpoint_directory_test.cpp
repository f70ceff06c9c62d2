#include "runtime/checkpoint_directory.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "tests/open_descriptors.h"
#include "tests/runtime/checkpoint_state.h"
#include "tests/runtime/data_files.h"
#include "tests/runtime/faulty_calls.h"

namespace annulus {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

class CheckpointDirectory : public testing::Test {
 protected:
  std::string write(uint32_t step, FileCalls& calls = posix_calls()) {
    state_ = run_.random(step);
    return run_.write(directory_.path(), step, state_, calls);
  }
  Words names() const {
    Words all;
    for (const fs::directory_entry& entry : fs::directory_iterator(directory_.path())) {
      all.push_back(entry.path().filename());
    }
    std::ranges::sort(all);
    return all;
  }
  // The step of the checkpoint that a run would go on from; its state must be the one written then.
  uint32_t latest(Words* warnings = nullptr) {
    const Checkpoint checkpoint = latest_checkpoint(directory_.path(), [&](const std::string& text) {
      if (warnings != nullptr) warnings->push_back(text);
    });
    StateOfRun expected = run_.random(checkpoint.step()), found = run_.restored(checkpoint);
    EXPECT_EQ(found.weights, expected.weights);
    EXPECT_EQ(found.moments[0], expected.moments[0]);
    return checkpoint.step();
  }
  static void damage(const std::string& path, const std::function<void(std::string&)>& change) {
    std::ifstream in(path, std::ios::binary);
    std::string bytes{std::istreambuf_iterator<char>(in), {}};
    change(bytes);
    std::ofstream(path, std::ios::binary) << bytes;
  }

  TempDir directory_;
  RunToSave run_{small_network(), {"momentum_buffer"}, false};
  StateOfRun state_;
};

TEST_F(CheckpointDirectory, ListsTheLatestFirstAndNothingElse) {
  for (const uint32_t step : {9U, 100U, 4'294'967'295U, 20U}) write(step);
  for (const char* name :
       {"step-1.safetensors", "step-00000000200.safetensors", "step-000000020x.safetensors",
        "step-0000000200.safetensors.tmp", ".step-0000000200.safetensors.tmp", "Step-0000000200.safetensors",
        "model.safetensors"}) {
    std::ofstream(directory_.path(name)) << "x";
  }
  Words paths;
  for (const char* name : {"step-4294967295.safetensors", "step-0000000100.safetensors",
                           "step-0000000020.safetensors", "step-0000000009.safetensors"}) {
    paths.push_back(directory_.path(name));
  }
  EXPECT_EQ(list_checkpoints(directory_.path()), paths);
  EXPECT_CONTAINS(user_error([&] { list_checkpoints(directory_.path("none")); }), "No such file");
}

TEST_F(CheckpointDirectory, KeepsAsManyAsAreWantedAndWhatIsNotItsOwn) {
  for (const uint32_t step : {30U, 10U, 50U, 20U, 40U}) write(step);
  std::ofstream(directory_.path("best.safetensors")) << "x";
  prune_checkpoints(directory_.path(), 9, 50);
  EXPECT_EQ(names().size(), 6U);
  prune_checkpoints(directory_.path(), 2, 50);
  EXPECT_EQ(names(),
            (Words{"best.safetensors", "step-0000000040.safetensors", "step-0000000050.safetensors"}));
  prune_checkpoints(directory_.path(), 1, 50);
  EXPECT_EQ(latest(), 50U);
}

TEST_F(CheckpointDirectory, LaterOnesThanTheLastOfTheRunNeitherCountNorGo) {
  for (const uint32_t step : {10U, 20U, 30U, 40U, 50U}) write(step);
  prune_checkpoints(directory_.path(), 2, 30);
  EXPECT_EQ(names(), (Words{"step-0000000020.safetensors", "step-0000000030.safetensors",
                            "step-0000000040.safetensors", "step-0000000050.safetensors"}));
  prune_checkpoints(directory_.path(), 1, 19);
  EXPECT_EQ(names().size(), 4U);
}

TEST_F(CheckpointDirectory, RemovesTheOldestFirstSoThatAFailureLeavesTheLatest) {
  for (const uint32_t step : {10U, 20U, 30U, 40U}) write(step);
  FaultyCalls calls("unlink", 2, Fault::kError, EACCES);
  const std::string text = user_error([&] { prune_checkpoints(directory_.path(), 1, 40, calls); });
  EXPECT_CONTAINS(text, "cannot remove " + directory_.path("step-0000000020.safetensors"));
  EXPECT_EQ(names(), (Words{"step-0000000020.safetensors", "step-0000000030.safetensors",
                            "step-0000000040.safetensors"}));
}

TEST_F(CheckpointDirectory, TheLatestIntactOneIsTakenAndTheOthersAreNamed) {
  for (const uint32_t step : {10U, 20U, 30U, 40U}) write(step);
  damage(directory_.path("step-0000000040.safetensors"), [](std::string& bytes) { bytes.back() ^= 1; });
  damage(directory_.path("step-0000000030.safetensors"), [](std::string& bytes) { bytes.resize(300); });
  Words warnings;
  EXPECT_EQ(latest(&warnings), 20U);
  ASSERT_EQ(warnings.size(), 2U);
  EXPECT_CONTAINS(warnings[0], "step-0000000040.safetensors: it is damaged: its checksum is");
  EXPECT_CONTAINS(warnings[1], "step-0000000030.safetensors: the file is cut short");
}

TEST_F(CheckpointDirectory, WithoutAnIntactOneItSaysWhatWasFound) {
  const auto refused = [&] {
    return user_error([&] { latest_checkpoint(directory_.path(), [](const auto&) {}); });
  };
  EXPECT_EQ(refused(), directory_.path() +
                           ": there is no checkpoint (step-*.safetensors) in it; give the directory that the "
                           "run's checkpoints are in");
  for (const uint32_t step : {10U, 20U}) {
    damage(write(step), [](std::string& bytes) { bytes.clear(); });
  }
  EXPECT_CONTAINS(refused(), directory_.path() + ": none of its 2 checkpoints can be used");
  fs::remove(directory_.path("step-0000000010.safetensors"));
  fs::remove(directory_.path("step-0000000020.safetensors"));
  fs::create_directory(directory_.path("step-0000000030.safetensors"));
  EXPECT_CONTAINS(refused(), "none of its 1 checkpoint can be used");
}

// Any damage of the latest file leaves the one before it.
TEST_F(CheckpointDirectory, AfterAFlippedBitOrACutAnywhereTheOneBeforeIsTaken) {
  write(10);
  const std::string path = write(20);
  const int64_t data = static_cast<int64_t>(fs::file_size(path)) - run_.plan.data_bytes();
  const auto expect_previous = [&](const std::string& what, const std::function<void(std::string&)>& change) {
    SCOPED_TRACE(what);
    damage(path, change);
    Words warnings;
    EXPECT_EQ(latest(&warnings), 10U);
    ASSERT_EQ(warnings.size(), 1U);
    EXPECT_CONTAINS(warnings[0], path + ": ");
    write(20);
  };
  std::vector<int64_t> places = {0, 3, 7, 8, 12, 40, data / 2, data - 1};
  for (const CheckpointTensor& tensor : run_.plan.tensors) {
    places.insert(places.end(), {data + tensor.info.begin, data + tensor.info.end - 1});
  }
  for (const int64_t at : places) {
    expect_previous("bit at byte " + std::to_string(at), [&](std::string& bytes) { bytes[at] ^= 16; });
    expect_previous("cut at byte " + std::to_string(at), [&](std::string& bytes) { bytes.resize(at); });
  }
  expect_previous("one byte more", [](std::string& bytes) { bytes += 'x'; });
  EXPECT_EQ(latest(), 20U);
}

struct Failure {
  const char* call;
  Fault fault;
  int code;
  int calls;  // that may fail; -1: as many as there are
};

TEST_F(CheckpointDirectory, AtEveryCallThatFailsTheOldOneStaysTheLatestAndNothingIsLeft) {
  write(10);
  for (const Failure& failure :
       {Failure{"open", Fault::kError, EIO, 1}, Failure{"open", Fault::kError, ENOSPC, 1},
        Failure{"write", Fault::kError, EIO, -1}, Failure{"write", Fault::kError, ENOSPC, -1},
        Failure{"write", Fault::kFull, ENOSPC, -1}, Failure{"pwrite", Fault::kError, EIO, 1},
        Failure{"pwrite", Fault::kFull, ENOSPC, 1}, Failure{"fdatasync", Fault::kError, EIO, 1},
        Failure{"fdatasync", Fault::kError, ENOSPC, 1}, Failure{"close", Fault::kError, EIO, 1},
        Failure{"rename", Fault::kError, EIO, 1}, Failure{"rename", Fault::kError, ENOSPC, 1}}) {
    int n = 1;
    for (;; ++n) {
      SCOPED_TRACE(failure.call + (" " + std::to_string(n)));
      FaultyCalls calls(failure.call, n, failure.fault, failure.code);
      const int open_before = open_descriptors();
      if (n == failure.calls + 1) break;
      try {
        write(20, calls);
        EXPECT_FALSE(calls.happened());
        break;
      } catch (const FileError& error) {
        EXPECT_EQ(error.code(), failure.code);
        EXPECT_CONTAINS(error.what(), "step-0000000020.safetensors: " + std::string(failure.call));
      }
      EXPECT_EQ(open_descriptors(), open_before);
      EXPECT_EQ(names(), Words{"step-0000000010.safetensors"});
      EXPECT_EQ(latest(), 10U);
    }
    EXPECT_GT(n, failure.calls == -1 ? 8 : 1);  // the header and every tensor
    fs::remove(directory_.path("step-0000000020.safetensors"));
  }
}

TEST_F(CheckpointDirectory, WhereOnlyTheDirectoryCannotBeSyncedTheNewOneIsWholeButReported) {
  write(10);
  for (const auto& [call, n] : {std::pair{"open", 2}, std::pair{"fsync", 1}}) {
    FaultyCalls calls(call, n, Fault::kError, EIO);
    EXPECT_THROW(write(20, calls), FileError);
    EXPECT_EQ(latest(), 20U);
    EXPECT_EQ(names().size(), 2U);
    fs::remove(directory_.path("step-0000000020.safetensors"));
  }
}

TEST_F(CheckpointDirectory, ShortWritesAndSignalsDoNoHarm) {
  for (const char* call : {"write", "pwrite"}) {
    FaultyCalls calls(call, 3, Fault::kShort);
    write(20, calls);
    EXPECT_EQ(latest(), 20U);
  }
  for (const char* call : {"open", "write", "pwrite", "fdatasync", "fsync"}) {
    FaultyCalls calls(call, 1, Fault::kInterrupted);
    write(30, calls);
    EXPECT_EQ(latest(), 30U);
  }
}

TEST_F(CheckpointDirectory, WheneverTheWriterIsKilledTheOldOrTheNewOneLoads) {
  write(10);
  int calls_of_all = 0;
  {
    FaultyCalls calls;
    write(20, calls);
    calls_of_all = static_cast<int>(calls.log().size());
    fs::remove(directory_.path("step-0000000020.safetensors"));
  }
  ASSERT_GT(calls_of_all, 16);
  for (const Fault fault : {Fault::kKilledBefore, Fault::kKilledHalfway, Fault::kKilledBehind}) {
    int old = 0;
    for (int n = 1; n <= calls_of_all; ++n) {
      SCOPED_TRACE(n);
      const pid_t child = fork();
      if (child == 0) {
        FaultyCalls calls("", n, fault);
        write(20, calls);
        _exit(0);
      }
      int status = 0;
      ASSERT_EQ(waitpid(child, &status, 0), child);
      ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
      const uint32_t step = latest();
      EXPECT_TRUE(step == 10 || step == 20) << step;
      old += step == 10;
      EXPECT_EQ(list_checkpoints(directory_.path()).size(), step / 10);
      // The next write takes away what was left, also under another name.
      write(30);
      for (const std::string& name : names()) EXPECT_TRUE(name.starts_with("step-")) << name;
      fs::remove(directory_.path("step-0000000030.safetensors"));
      fs::remove(directory_.path("step-0000000020.safetensors"));
    }
    // Behind the rename come open, fsync and close of the directory.
    EXPECT_EQ(old, calls_of_all - (fault == Fault::kKilledBefore ? 3 : 4));
  }
}

TEST_F(CheckpointDirectory, IsLeftAsItIsWhereTheWriterIsKilledWhileItReplacesACheckpoint) {
  write(10);
  for (const Fault fault : {Fault::kKilledBefore, Fault::kKilledHalfway, Fault::kKilledBehind}) {
    for (int n = 1; n <= 20; ++n) {
      const pid_t child = fork();
      if (child == 0) {
        FaultyCalls calls("", n, fault);
        write(10, calls);
        _exit(0);
      }
      waitpid(child, nullptr, 0);
      EXPECT_EQ(latest(), 10U) << n;
    }
  }
}

TEST_F(CheckpointDirectory, AMissingDirectoryIsSaidSo) {
  StateOfRun state = run_.random(1);
  EXPECT_CONTAINS(user_error([&] { run_.write(directory_.path("none"), 1, state); }),
                  "make the directory first");
}

}  // namespace
}  // namespace annulus
