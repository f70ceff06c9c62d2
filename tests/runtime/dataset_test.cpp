#include "runtime/dataset.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <numeric>

#include "tests/runtime/data_files.h"

namespace annulus {
namespace {

// Memory for a data set, with a guard pattern around each array: only the headroom may be overwritten.
class Memory {
 public:
  explicit Memory(const DatasetInfo& info) {
    const auto pixels = static_cast<size_t>(info.shape.pixels());
    view_ = {array(0, static_cast<size_t>(info.train_count) * pixels),
             array(1, static_cast<size_t>(info.train_count)),
             array(2, static_cast<size_t>(info.test_count) * pixels),
             array(3, static_cast<size_t>(info.test_count))};
  }

  const DatasetView& view() const { return view_; }

  void expect_guards_untouched() const {
    for (const Bytes& bytes : arrays_) {
      for (size_t i = 0; i < kGuard; ++i) {
        ASSERT_EQ(bytes[i], 0xa5);
        ASSERT_EQ(bytes[bytes.size() - 1 - i], 0xa5);
      }
    }
  }

 private:
  static constexpr size_t kGuard = 64;

  std::span<uint8_t> array(size_t which, size_t size) {
    arrays_[which].assign(kGuard + kDatasetHeadroom + size + kGuard, 0xa5);
    return std::span(arrays_[which]).subspan(kGuard + kDatasetHeadroom, size);
  }

  std::array<Bytes, 4> arrays_;
  DatasetView view_;
};

Bytes copy(std::span<const uint8_t> bytes) { return {bytes.begin(), bytes.end()}; }

class IdxDataset : public testing::Test {
 protected:
  TempDir dir_;
  Bytes train_images_ = noise_bytes(30 * 6 * 5), train_labels_ = noise_bytes(30, 10);
  Bytes test_images_ = noise_bytes(20 * 6 * 5), test_labels_ = noise_bytes(20, 10);

  void write_all(bool gzip) {
    const std::string end = gzip ? ".gz" : "";
    const auto pack = [&](const Bytes& bytes) { return gzip ? gzip_bytes(bytes) : bytes; };
    dir_.write("train-images-idx3-ubyte" + end, pack(idx_bytes({30, 6, 5}, train_images_)));
    dir_.write("train-labels-idx1-ubyte" + end, pack(idx_bytes({30}, train_labels_)));
    dir_.write("t10k-images-idx3-ubyte" + end, pack(idx_bytes({20, 6, 5}, test_images_)));
    dir_.write("t10k-labels-idx1-ubyte" + end, pack(idx_bytes({20}, test_labels_)));
  }

  std::string describe_error() {
    return user_error([&] { describe_dataset("mnist", dir_.path()); });
  }
};

TEST_F(IdxDataset, IsDescribedAndLoadedPlainAndGzipped) {
  for (const bool gzip : {true, false}) {  // plain last: it wins over the .gz next to it
    write_all(gzip);
    const DatasetInfo info = describe_dataset("mnist", dir_.path());
    EXPECT_EQ(info.name, "mnist");
    EXPECT_EQ(info.shape, (ImageShape{1, 6, 5}));
    EXPECT_EQ(info.classes, 10);
    EXPECT_EQ(info.train_count, 30);
    EXPECT_EQ(info.test_count, 20);
    EXPECT_EQ(info.files.size(), 4u);
    EXPECT_EQ(info.files[0].path, dir_.path("train-images-idx3-ubyte") + (gzip ? ".gz" : ""));
    Memory memory(info);
    load_dataset(info, memory.view());
    EXPECT_EQ(copy(memory.view().train_images), train_images_);
    EXPECT_EQ(copy(memory.view().train_labels), train_labels_);
    EXPECT_EQ(copy(memory.view().test_images), test_images_);
    EXPECT_EQ(copy(memory.view().test_labels), test_labels_);
    memory.expect_guards_untouched();
  }
}

TEST_F(IdxDataset, DigitsAreNotMirroredClothesAre) {
  write_all(false);
  EXPECT_FALSE(describe_dataset("mnist", dir_.path()).flip_allowed);
  EXPECT_TRUE(describe_dataset("fashion-mnist", dir_.path()).flip_allowed);
}

TEST_F(IdxDataset, AMissingFileIsNamedWithItsPlaceAndRemedy) {
  for (const char* name : {"train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte",
                           "t10k-labels-idx1-ubyte"}) {
    write_all(true);
    ASSERT_EQ(::unlink(dir_.path(std::string(name) + ".gz").c_str()), 0);
    const std::string text = describe_error();
    EXPECT_CONTAINS(text, std::string("no ") + name + " in " + dir_.path());
    EXPECT_CONTAINS(text, "--data DIR");
  }
}

TEST_F(IdxDataset, LabelsThatDoNotMatchTheImagesAreRejected) {
  write_all(false);
  dir_.write("t10k-labels-idx1-ubyte", idx_bytes({19}, noise_bytes(19, 10)));
  EXPECT_CONTAINS(describe_error(),
                  "has 19 labels for the 20 test images of " + dir_.path("t10k-images-idx3-ubyte"));
  write_all(false);
  dir_.write("train-labels-idx1-ubyte", idx_bytes({31}, noise_bytes(31, 10)));
  EXPECT_CONTAINS(describe_error(), "has 31 labels for the 30 training images");
}

TEST_F(IdxDataset, TestImagesOfAnotherShapeAreRejected) {
  write_all(false);
  dir_.write("t10k-images-idx3-ubyte", idx_bytes({20, 5, 6}, test_images_));
  EXPECT_CONTAINS(describe_error(), "has images of 1 x 5 x 6 pixels, " +
                                        dir_.path("train-images-idx3-ubyte") + " has 1 x 6 x 5");
}

TEST_F(IdxDataset, ATruncatedFileIsFoundBeforeAnythingIsLoaded) {
  write_all(true);
  Bytes bytes = gzip_bytes(idx_bytes({30, 6, 5}, train_images_));
  bytes.resize(bytes.size() / 2);
  EXPECT_CONTAINS(user_error([&] {
                    dir_.write("train-images-idx3-ubyte.gz", bytes);
                    describe_dataset("mnist", dir_.path());
                  }),
                  "truncated");
}

TEST_F(IdxDataset, ALabelOutOfRangeIsNamedWithItsFileAndImage) {
  train_labels_[17] = 10;
  write_all(true);
  const DatasetInfo info = describe_dataset("mnist", dir_.path());
  Memory memory(info);
  EXPECT_CONTAINS(
      user_error([&] { load_dataset(info, memory.view()); }),
      dir_.path("train-labels-idx1-ubyte.gz") + " gives image 17 the label 10; there are 10 classes");
}

TEST_F(IdxDataset, DamageThatOnlyTheChecksumShowsIsFoundWhenLoading) {
  write_all(true);
  dir_.write("t10k-labels-idx1-ubyte.gz", gzip_bytes(idx_bytes({2000}, noise_bytes(2000, 10))));
  Bytes bytes = gzip_bytes(idx_bytes({2000, 6, 5}, noise_bytes(60000)));
  bytes[bytes.size() / 2] ^= 1;
  dir_.write("t10k-images-idx3-ubyte.gz", bytes);
  const DatasetInfo info = describe_dataset("mnist", dir_.path());
  Memory memory(info);
  const std::string text = user_error([&] { load_dataset(info, memory.view()); });
  EXPECT_CONTAINS(text, dir_.path("t10k-images-idx3-ubyte.gz"));
  memory.expect_guards_untouched();
}

TEST_F(IdxDataset, ADirectoryInTheFilesPlaceIsRejected) {
  write_all(false);
  ASSERT_EQ(::unlink(dir_.path("train-labels-idx1-ubyte").c_str()), 0);
  ASSERT_EQ(::mkdir(dir_.path("train-labels-idx1-ubyte").c_str(), 0700), 0);
  EXPECT_CONTAINS(describe_error(), dir_.path("train-labels-idx1-ubyte") + " is a directory");
}

TEST(Dataset, OneThatIsNowhereSaysWhereToGetItAndWhereToPutIt) {
  const TempDir empty;
  for (const std::string& dir : {empty.path(), empty.path("missing")}) {
    const auto text = [&](const char* name) { return user_error([&] { describe_dataset(name, dir); }); };
    EXPECT_CONTAINS(text("fashion-mnist"), "apt-get install dataset-fashion-mnist");
    EXPECT_CONTAINS(text("mnist"), "https://");
    EXPECT_CONTAINS(text("cifar10"), "https://www.cs.toronto.edu/~kriz/cifar.html");
    EXPECT_CONTAINS(text("cifar10"), "data_batch_1.bin");
    EXPECT_CONTAINS(text("cifar10"), dir + ", " + dir + "/cifar-10-batches-bin");
    EXPECT_CONTAINS(text("cifar100"), "train.bin");
    for (const char* name : {"fashion-mnist", "mnist", "cifar10", "cifar100"}) {
      EXPECT_CONTAINS(text(name), std::string("data set ") + name + " not found");
      EXPECT_CONTAINS(text(name), "--data DIR");
    }
  }
}

TEST(Dataset, AFileAsDirectoryAndAnUnknownNameAreRejected) {
  const TempDir dir;
  const std::string file = dir.write("file", {1});
  EXPECT_CONTAINS(user_error([&] { describe_dataset("mnist", file); }),
                  "--data " + file + " is not a directory");
  EXPECT_CONTAINS(user_error([&] { describe_dataset("imagenet", ""); }), "--dataset imagenet");
}

// A CIFAR file of the published size, all zeros but for label and first pixel of one image. Sparse: costs no
// disk.
void write_cifar(const std::string& path, int64_t images, int label_bytes, int64_t image, uint8_t label,
                 uint8_t pixel) {
  const int64_t record = label_bytes + 3072;
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  ASSERT_GE(descriptor, 0);
  ASSERT_EQ(::ftruncate(descriptor, images * record), 0);
  const std::array<uint8_t, 2> bytes = {label, pixel};
  ASSERT_EQ(::pwrite(descriptor, bytes.data(), 2, image * record + label_bytes - 1), 2);
  ::close(descriptor);
}

TEST(Dataset, Cifar10FilesAreReadInTheirOrderFromTheArchivesFolder) {
  const TempDir dir;
  const std::string folder = dir.path("cifar-10-batches-bin");
  ASSERT_EQ(::mkdir(folder.c_str(), 0700), 0);
  for (int batch = 1; batch <= 5; ++batch) {
    write_cifar(folder + "/data_batch_" + std::to_string(batch) + ".bin", 10000, 1, 123,
                static_cast<uint8_t>(batch), 200);
  }
  write_cifar(folder + "/test_batch.bin", 10000, 1, 9999, 9, 77);
  const DatasetInfo info = describe_dataset("cifar10", dir.path());
  EXPECT_EQ(info.shape, (ImageShape{3, 32, 32}));
  EXPECT_EQ(info.classes, 10);
  EXPECT_EQ(info.train_count, 50000);
  EXPECT_EQ(info.test_count, 10000);
  EXPECT_EQ(info.crop_padding, 4);
  EXPECT_TRUE(info.flip_allowed);
  Memory memory(info);
  load_dataset(info, memory.view());
  for (size_t batch = 1; batch <= 5; ++batch) {
    EXPECT_EQ(memory.view().train_labels[(batch - 1) * 10000 + 123], batch);
    EXPECT_EQ(memory.view().train_images[((batch - 1) * 10000 + 123) * 3072], 200);
  }
  EXPECT_EQ(memory.view().test_labels[9999], 9);
  EXPECT_EQ(memory.view().test_images[9999 * 3072], 77);
  EXPECT_EQ(std::accumulate(memory.view().train_labels.begin(), memory.view().train_labels.end(), 0), 15);
  memory.expect_guards_untouched();

  ASSERT_EQ(::truncate((folder + "/data_batch_3.bin").c_str(), 9999 * 3073), 0);
  EXPECT_CONTAINS(user_error([&] { describe_dataset("cifar10", dir.path()); }),
                  folder + "/data_batch_3.bin is truncated");
  ASSERT_EQ(::unlink((folder + "/data_batch_3.bin").c_str()), 0);
  EXPECT_CONTAINS(user_error([&] { describe_dataset("cifar10", dir.path()); }),
                  "no data_batch_3.bin in " + folder);
}

TEST(Dataset, Cifar100HasItsFineLabels) {
  const TempDir dir;
  write_cifar(dir.path("train.bin"), 50000, 2, 49999, 99, 5);
  write_cifar(dir.path("test.bin"), 10000, 2, 0, 42, 6);
  const DatasetInfo info = describe_dataset("cifar100", dir.path());
  EXPECT_EQ(info.classes, 100);
  Memory memory(info);
  load_dataset(info, memory.view());
  EXPECT_EQ(memory.view().train_labels[49999], 99);
  EXPECT_EQ(memory.view().train_images[49999 * 3072], 5);
  EXPECT_EQ(memory.view().test_labels[0], 42);
}

TEST(Dataset, SyntheticNeedsNoFilesAndTakesAnyShape) {
  const DatasetInfo named = describe_dataset("synthetic", "/no/such/place");
  EXPECT_EQ(named.shape, (ImageShape{3, 32, 32}));
  EXPECT_EQ(named.train_count, 8192);
  EXPECT_EQ(named.test_count, 1024);
  const DatasetInfo info = describe_synthetic({1, 28, 28}, 10, 100, 10);
  EXPECT_EQ(info.crop_padding, 2);
  Memory memory(info);
  load_dataset(info, memory.view());
  EXPECT_NE(copy(memory.view().train_labels), Bytes(100, 0xa5));
  EXPECT_NE(copy(memory.view().test_images), Bytes(7840, 0xa5));
  EXPECT_NE(copy(memory.view().test_images), copy(memory.view().train_images.first(7840)));
  // The constants of the normalisation fit the data.
  const auto& images = memory.view().train_images;
  const double mean =
      std::accumulate(images.begin(), images.end(), 0.0) / static_cast<double>(images.size()) / 255;
  EXPECT_NEAR(mean, double{info.normalization.mean[0]}, 0.02);
}

TEST_F(IdxDataset, DescribingStartsNoThread) {
  write_all(true);
  const pid_t child =
      ::fork();  // other tests have started oneTBB's threads here; a child begins with one thread
  if (child == 0) {
    describe_dataset("mnist", dir_.path());
    describe_dataset("synthetic", "");
    const std::filesystem::directory_iterator threads("/proc/self/task"), end;
    ::_exit(std::distance(threads, end) == 1 ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(Dataset, DebiansFashionMnistIsWhatItsAuthorsPublished) {
  if (!std::filesystem::exists("/usr/share/datasets/fashion-mnist")) {
    GTEST_SKIP() << "SKIPPED: package dataset-fashion-mnist is not installed";
  }
  using Clock = std::chrono::steady_clock;
  const auto milliseconds = [](Clock::time_point start) {
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
  };
  auto start = Clock::now();
  const DatasetInfo info = describe_dataset("fashion-mnist", "");
  const double describe_ms = milliseconds(start);
  EXPECT_EQ(info.shape, (ImageShape{1, 28, 28}));
  EXPECT_EQ(info.train_count, 60000);
  EXPECT_EQ(info.test_count, 10000);
  EXPECT_EQ(info.crop_padding, 2);
  Memory memory(info);
  start = Clock::now();
  load_dataset(info, memory.view());
  std::printf("described in %.2f ms, loaded in %.0f ms\n", describe_ms, milliseconds(start));

  const DatasetView& view = memory.view();
  EXPECT_EQ(view.train_labels[0], 9);
  EXPECT_EQ(view.test_labels[0], 9);
  const double sum = std::accumulate(view.train_images.begin(), view.train_images.end(), 0.0);
  const double squares =
      std::accumulate(view.train_images.begin(), view.train_images.end(), 0.0,
                      [](double total, uint8_t byte) { return total + static_cast<double>(byte) * byte; });
  const auto n = static_cast<double>(view.train_images.size());
  EXPECT_NEAR(sum / n, 72.94, 0.005);
  EXPECT_NEAR(sum / n / 255, double{info.normalization.mean[0]}, 0.0001);
  EXPECT_NEAR(std::sqrt(squares / n - sum / n * (sum / n)) / 255, double{info.normalization.stddev[0]},
              0.0001);
  std::array<int, 10> classes{};
  for (const uint8_t label : view.train_labels) ++classes[label];
  for (const int count : classes) EXPECT_EQ(count, 6000);
  memory.expect_guards_untouched();
}

}  // namespace
}  // namespace annulus
