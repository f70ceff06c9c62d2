// Bad input to the real command: exit code 2, a message that names the flag or file, the value and the
// remedy, and nothing half-started.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "tests/end_to_end/command.h"
#include "tests/runtime/data_files.h"

namespace annulus {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

int online_cpus() { return static_cast<int>(sysconf(_SC_NPROCESSORS_CONF)); }

// Runs the command in `scratch`, where it must refuse with a message that holds all of `parts`.
std::string expect_refused(const ScratchDirectory& scratch, const Words& command, const Words& parts,
                           const CommandOptions& options) {
  SCOPED_TRACE(::testing::PrintToString(command));
  const Words before = scratch.content();
  const Ended end = run_annulus(command, options);
  EXPECT_EQ(end.code, 2) << end.out << end.err;
  EXPECT_EQ(end.err.rfind("annulus: ", 0), 0u) << end.err;
  EXPECT_EQ(std::count(end.err.begin(), end.err.end(), '\n'), 1) << "not one line: " << end.err;
  for (const std::string& part : parts) EXPECT_CONTAINS(end.err, part);
  for (const ProcessView& process : end.left) ADD_FAILURE() << process.name << " is left";
  EXPECT_EQ(scratch.content(), before);
  EXPECT_EQ(end.out.find("weights xxh64="), std::string::npos) << end.out;
  return end.out;
}

void expect_refused(const Words& command, const Words& parts) {
  const ScratchDirectory scratch;
  // Found before anything began, so nothing was announced either.
  EXPECT_EQ(expect_refused(scratch, command, parts, scratch.here()), "");
}

TEST(BadInput, UnknownFlagsAndCommandsGetTheNearestName) {
  expect_refused({"train", "--batch-sise", "64"},
                 {"--batch-sise", "unknown flag", "did you mean --batch-size?"});
  expect_refused({"topo", "--sinthetic", "core:2"}, {"--sinthetic", "did you mean --synthetic?"});
  expect_refused({"trian"}, {"trian", "unknown command", "did you mean train?"});
  expect_refused({"bench", "trian"}, {"trian", "did you mean bench train?"});
  expect_refused({"train", "--dataset", "fashon-mnist"},
                 {"--dataset fashon-mnist", "did you mean fashion-mnist?"});
  expect_refused({"train", "--bind", "sockets"}, {"--bind sockets", "did you mean socket?"});
}

TEST(BadInput, ValuesOfTheWrongTypeAreRefused) {
  expect_refused({"bench", "compression", "--ratio", "1.5"}, {"--ratio 1.5", "not a ratio", "give"});
  expect_refused({"bench", "compression", "--bytes", "0"}, {"--bytes 0", "give at least 4"});
  expect_refused({"train", "--epochs", "two"}, {"--epochs two", "not a whole number", "give"});
  expect_refused({"train", "--workers", "-1"}, {"--workers -1", "out of range", "auto"});
  expect_refused({"train", "--lr", "fast"}, {"--lr fast", "not a number", "give"});
  expect_refused({"train", "--clip", "0"}, {"--clip 0", "above 0", "off"});
  expect_refused({"train", "--smt", "maybe"}, {"--smt maybe", "neither on nor off"});
  expect_refused({"train", "--steps"}, {"--steps", "no value"});
  expect_refused({"train", "--deadline", "0"}, {"--deadline 0", "above 0"});
}

TEST(BadInput, FilesOfOptionsAreRefusedByLineAndKey) {
  const ScratchDirectory scratch;
  const auto refused = [&](const std::string& text, const Words& parts) {
    write_file(scratch / "run.yaml", text);
    EXPECT_EQ(expect_refused(scratch, {"train", "--config", "run.yaml"}, parts, scratch.here()), "");
  };
  refused("model: mlp\nbatch-sise: 64\n", {"run.yaml:2", "batch-sise", "did you mean batch-size?"});
  refused("model: mlp\nepochs: two\n", {"run.yaml:2", "epochs", "two", "not a whole number"});
  refused("batch-size: [1, 2]\n", {"run.yaml:1", "batch-size", "single value"});
  refused("model: mlp\n  lr: : 3\n", {"run.yaml"});
  expect_refused(scratch, {"train", "--config", "missing.yaml"}, {"--config missing.yaml", "No such file"},
                 scratch.here());
}

TEST(BadInput, NetworksOfTheUsersOwnAreRefusedByLineAndLayer) {
  const ScratchDirectory scratch;
  const auto refused = [&](const std::string& text, const Words& parts) {
    write_file(scratch / "net.yaml", text);
    for (const Words& command :
         {Words{"model", "net.yaml"}, Words{"train", "--dataset", "synthetic", "--model", "net.yaml"}}) {
      EXPECT_EQ(expect_refused(scratch, command, parts, scratch.here()), "");
    }
  };
  refused("", {"net.yaml: empty"});
  refused("layers: [\n", {"net.yaml:2", "does not parse"});
  refused("layers:\n  - convolve: {out: 3}\n", {"net.yaml:2", "convolve", "unknown kind of layer"});
  refused("layers:\n  - conv: {out: many, kernel: 3}\n", {"net.yaml:2", "out: many", "not a whole number"});
  refused("layers:\n  - batch_norm\n  - linear: {out: 3}\n",
          {"net.yaml:3", "fc1", "3 outputs", "out: classes"});
  refused("layers:\n  - max_pool: {kernel: 8}\n  - conv: {out: 16, kernel: 5}\n  - linear: {out: classes}\n",
          {"net.yaml:3", "conv1", "3x5x5", "3x4x4"});
  write_file(scratch / "net.yaml", "classes: 11\nlayers:\n  - linear: {out: classes}\n");
  expect_refused(scratch, {"train", "--dataset", "synthetic", "--model", "net.yaml"},
                 {"net.yaml:1", "11 classes, the data has 10"}, scratch.here());
  write_file(scratch / "net.yaml", std::string(2 << 20, '#'));
  expect_refused(scratch, {"model", "net.yaml"}, {"net.yaml", "larger than"}, scratch.here());
  fs::create_directory(scratch / "directory.yaml");
  expect_refused(scratch, {"model", "directory.yaml"}, {"directory.yaml", "Is a directory"}, scratch.here());
  expect_refused(scratch, {"model", "missing.yaml"}, {"missing.yaml", "No such file"}, scratch.here());
  expect_refused({"model"}, {"no network", "resnet50"});
  expect_refused({"train", "--model", "resnet"}, {"--model resnet", "did you mean resnet18?"});
  expect_refused({"train", "--model", "mlp", "--stem", "imagenet"}, {"--stem imagenet", "mlp has none"});
}

TEST(BadInput, ImpossibleCombinationsAreRefused) {
  expect_refused({"train", "--workers", "4", "--shards", "2"},
                 {"--shards 2", "4 workers", "--shards 4", "--workers 2"});
  expect_refused({"train", "--batch-size", "3", "--shards", "8", "--workers", "1"},
                 {"--batch-size 3", "8 shards", "--batch-size 8"});
  expect_refused({"train", "--optimizer", "sgd", "--momentum", "0.9"},
                 {"--momentum 0.9", "sgd", "leave it out"});
  expect_refused({"train", "--optimizer", "adam", "--momentum", "0.9"},
                 {"--momentum 0.9", "adam", "leave it out"});
  expect_refused({"train", "--optimizer", "sgd", "--beta1", "0.9"}, {"--beta1 0.9", "sgd", "adamw"});
  expect_refused({"train", "--optimizer", "adan"}, {"--optimizer adan", "did you mean adam?"});
  expect_refused({"train", "--dataset", "synthetic", "--steps", "10", "--warmup", "11"},
                 {"--warmup 11", "10 steps", "give at most 10"});
  expect_refused({"train", "--schedule", "cosine", "--decay-every", "3"},
                 {"--decay-every 3", "leave it out", "--schedule step"});
  expect_refused({"train", "--shards", "4", "--accumulate", "2"},
                 {"--shards 4", "--accumulate 2", "leave one out"});
  expect_refused({"train", "--batch-size", "5", "--workers", "2", "--accumulate", "3"},
                 {"--batch-size 5", "6 shards", "--accumulate 2"});
  expect_refused({"train", "--epochs", "3", "--steps", "2"}, {"--epochs 3", "--steps 2", "leave one out"});
  expect_refused({"topo", "--verify", "--synthetic", "core:2 pu:1"},
                 {"--verify", "--synthetic", "leave one"});
  expect_refused({"topo", "--synthetic", "pack:2 numa2"}, {"--synthetic", "pack:2 numa2", "for example"});
}

TEST(BadInput, MoreShardsThanAPlanCanHoldAreRefused) {
  expect_refused({"train", "--batch-size", "1000000000", "--shards", "1000000000"},
                 {"--shards 1000000000", "out of range", "give"});
}

TEST(BadInput, CoresThatDoNotExistAreRefused) {
  const std::string all = "0-" + std::to_string(online_cpus() + 97);
  expect_refused({"train", "--bind", all}, {"--bind " + all, "does not exist", "this machine has"});
  const std::string one = "0," + std::to_string(online_cpus());
  expect_refused({"train", "--bind", one},
                 {"--bind " + one, "CPU " + std::to_string(online_cpus()), "does not exist"});
  expect_refused({"train", "--bind", "0", "--workers", "2"}, {"--bind 0", "--workers 2", "list more"});
  const std::string threads = std::to_string(online_cpus() + 1);
  expect_refused({"train", "--threads-per-worker", threads},
                 {"--threads-per-worker " + threads, "give at most"});
}

TEST(BadInput, CoresOutsideTheCpusetAreRefused) {
  cpu_set_t set;
  ASSERT_EQ(sched_getaffinity(0, sizeof set, &set), 0);
  if (!CPU_ISSET(0, &set) || !CPU_ISSET(1, &set)) GTEST_SKIP() << "SKIPPED: needs CPUs 0 and 1";
  const ScratchDirectory scratch;
  CommandOptions options = scratch.here();
  options.cpus = {1};
  expect_refused(scratch, {"train", "--bind", "0"},
                 {"--bind 0", "CPU 0 may not be used", "taskset", "choose"}, options);
}

TEST(BadInput, MissingDataIsRefusedWithWhereToGetItAndWhereToPutIt) {
  const ScratchDirectory scratch;
  expect_refused({"train", "--data", "/dev/null/none"},
                 {"/dev/null/none", "fashion-mnist", "apt-get install"});
  expect_refused({"train", "--dataset", "cifar10"},
                 {"cifar10", "data/cifar10", "https://www.cs.toronto.edu/~kriz/cifar.html", "--data DIR"});
  expect_refused({"train", "--dataset", "cifar100"},
                 {"cifar100", "https://www.cs.toronto.edu/~kriz/cifar.html"});
}

TEST(BadInput, RunDirectoriesThatCannotBeWrittenOrHoldARunAreRefused) {
  const Words run = {"train", "--dataset", "synthetic", "--model", "mlp", "--steps", "2", "--workers", "1"};
  for (const std::string directory : {"/dev/null/run", "/proc/run"}) {
    expect_refused(with(run, {"--run-dir", directory}),
                   {"--run-dir " + directory, "cannot be written", "give a"});
  }
  const ScratchDirectory scratch;
  fs::create_directory(scratch / "used");
  write_file(scratch / "used/config.yaml", "");
  expect_refused(scratch, with(run, {"--run-dir", "used"}),
                 {"--run-dir used", "holds a run already", "choose"}, scratch.here());
}

TEST(BadInput, NotEnoughMemoryIsFoundByArithmetic) {
  expect_refused({"train", "--dataset", "synthetic", "--batch-size", "100000000", "--workers", "2"},
                 {"not enough memory", "the run needs", "use a smaller batch, a larger --accumulate", "TiB"});
  expect_refused({"bench", "layers", "--model", "resnet50", "--stem", "imagenet", "--data-shape", "3x224x224",
                  "--batch", "1000000"},
                 {"not enough memory", "for the only worker", "use a smaller batch"});
}

// A cgroup of version 1 or 2 with a memory limit; its path is empty where none can be made.
class MemoryGroup {
 public:
  explicit MemoryGroup(int64_t bytes) {
    const std::string name = "annulus_test_" + std::to_string(getpid());
    const std::string places[][2] = {{"/sys/fs/cgroup/memory/", "memory.limit_in_bytes"},
                                     {"/sys/fs/cgroup/", "memory.max"}};
    for (const auto& [parent, limit] : places) {
      std::error_code error;
      if (!fs::exists(parent + "cgroup.procs") || !fs::create_directory(parent + name, error)) continue;
      path_ = parent + name;
      write_file(path_ + "/" + limit, std::to_string(bytes));
      if (read_file(path_ + "/" + limit) == std::to_string(bytes) + "\n") return;
      rmdir(path_.c_str());
      path_.clear();
    }
  }
  ~MemoryGroup() {
    if (!path_.empty()) rmdir(path_.c_str());
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(BadInput, AMemoryLimitOfACgroupIsNamed) {
  const MemoryGroup group(int64_t{48} << 20);
  if (group.path().empty()) GTEST_SKIP() << "SKIPPED: cannot make a cgroup with a memory limit";
  const ScratchDirectory scratch;
  CommandOptions options = scratch.here();
  options.cgroup = group.path();
  expect_refused(scratch, {"train", "--dataset", "synthetic", "--workers", "2"},
                 {"not enough memory", group.path(), "the run needs", "raise the limit"}, options);
}

TEST(BadInput, LimitsOfTheShellAreNamed) {
  const ScratchDirectory scratch;
  const Words run = {"train", "--dataset", "synthetic", "--model", "mlp", "--steps", "2", "--workers", "2"};
  CommandOptions options = scratch.here();
  options.limits = {{RLIMIT_FSIZE, 1 << 20}};
  expect_refused(scratch, run, {"cannot reserve", "shared memory", "raise the limit"}, options);
  options.limits = {{RLIMIT_NOFILE, 12}};
  expect_refused(scratch, run, {"Too many open files", "ulimit -n"}, options);
}

// A data set like Fashion-MNIST, small, whose files a test damages.
class BadData : public ::testing::Test {
 protected:
  BadData() {
    write("train-images-idx3-ubyte", idx_bytes({64, 28, 28}, noise_bytes(64 * 784)));
    write("train-labels-idx1-ubyte", idx_bytes({64}, noise_bytes(64, 10)));
    write("t10k-images-idx3-ubyte", idx_bytes({16, 28, 28}, noise_bytes(16 * 784)));
    write("t10k-labels-idx1-ubyte", idx_bytes({16}, noise_bytes(16, 10)));
  }

  void write(const std::string& name, const Bytes& bytes) {
    fs::create_directory(scratch_ / "data");
    write_file(scratch_.path() / "data" / name, std::string(bytes.begin(), bytes.end()));
  }
  void remove(const std::string& name) { fs::remove(scratch_.path() / "data" / name); }

  std::string refused(const Words& parts) { return expect_refused(scratch_, kRun, parts, scratch_.here()); }

  const Words kRun = {"train", "--data", "data", "--model", "mlp", "--batch-size", "16", "--steps", "2"};
  ScratchDirectory scratch_;
};

TEST_F(BadData, TheUndamagedFilesAreTrainedOn) {
  const Ended end = run_annulus(kRun, scratch_.here());
  EXPECT_EQ(end.code, 0) << end.err;
  EXPECT_EQ(end.weights().size(), 16u);
}

TEST_F(BadData, AFileThatIsMissing) {
  remove("t10k-labels-idx1-ubyte");
  EXPECT_EQ(refused({"t10k-labels-idx1-ubyte", "incomplete", "/data"}), "");
}

TEST_F(BadData, AFileThatIsTruncated) {
  write("train-images-idx3-ubyte", idx_bytes({64, 28, 28}, noise_bytes(63 * 784)));
  EXPECT_EQ(refused({"train-images-idx3-ubyte", "truncated", "50192", "49408", "replace it"}), "");
}

TEST_F(BadData, AFileWithAnotherMagicNumber) {
  Bytes bytes = idx_bytes({64, 28, 28}, noise_bytes(64 * 784));
  bytes[0] = 0x7f;
  write("train-images-idx3-ubyte", bytes);
  EXPECT_EQ(refused({"train-images-idx3-ubyte", "is no IDX file", "7f000803", "replace it"}), "");
}

TEST_F(BadData, LabelsThatDoNotMatchTheImages) {
  write("train-labels-idx1-ubyte", idx_bytes({63}, noise_bytes(63, 10)));
  EXPECT_EQ(refused({"train-labels-idx1-ubyte", "63 labels", "64 training images", "replace it"}), "");
}

TEST_F(BadData, TestImagesOfAnotherSize) {
  write("t10k-images-idx3-ubyte", idx_bytes({16, 32, 32}, noise_bytes(16 * 1024)));
  EXPECT_EQ(refused({"t10k-images-idx3-ubyte", "32 x 32", "28 x 28"}), "");
}

// What only the content shows is found by the loader, when the run has been announced but no step been made.
TEST_F(BadData, ALabelOutOfRangeLeavesNothingBehind) {
  Bytes labels = noise_bytes(64, 10);
  labels[41] = 10;
  write("train-labels-idx1-ubyte", idx_bytes({64}, labels));
  refused({"train-labels-idx1-ubyte", "image 41", "label 10", "10 classes", "replace it"});
}

TEST_F(BadData, ATruncatedGzipFileLeavesNothingBehind) {
  remove("train-images-idx3-ubyte");
  Bytes bytes = gzip_bytes(idx_bytes({64, 28, 28}, noise_bytes(64 * 784)));
  const Bytes trailer(bytes.end() - 4, bytes.end());
  bytes.resize(bytes.size() / 2);
  write("train-images-idx3-ubyte.gz", bytes);
  refused({"train-images-idx3-ubyte.gz", "truncated or damaged", "replace it"});
  // The same, with the end that speaks of the right size: only inflating shows it.
  bytes.insert(bytes.end(), trailer.begin(), trailer.end());
  write("train-images-idx3-ubyte.gz", bytes);
  refused({"train-images-idx3-ubyte.gz", "truncated or damaged", "replace it"});
}

TEST_F(BadData, ARunThatWasRefusedDoesNotTouchTheFilesOfOthers) {
  Bytes labels = noise_bytes(64, 10);
  labels[0] = 200;
  write("train-labels-idx1-ubyte", idx_bytes({64}, labels));
  fs::create_directory(scratch_ / "mine");
  write_file(scratch_ / "mine/notes.txt", "keep");
  expect_refused(scratch_, with(kRun, {"--run-dir", "mine"}), {"label 200"}, scratch_.here());
  expect_refused(scratch_, with(kRun, {"--run-dir", "new/deep"}), {"label 200"}, scratch_.here());
}

}  // namespace
}  // namespace annulus
