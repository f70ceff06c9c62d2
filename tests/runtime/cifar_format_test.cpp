#include "runtime/cifar_format.h"

#include "tests/runtime/data_files.h"

namespace annulus {
namespace {

constexpr size_t kImages = 150;  // more than are read at once, and no multiple of it

// Records whose image i is image_bytes()[i * 3072 ...] and whose labels are i mod classes, the coarse one 7.
Bytes records(const CifarFormat& format, const Bytes& images, size_t count) {
  Bytes bytes;
  for (size_t i = 0; i < count; ++i) {
    for (int label = 0; label < format.label_bytes - 1; ++label) bytes.push_back(7);
    bytes.push_back(static_cast<uint8_t>(i % static_cast<size_t>(format.classes)));
    bytes.insert(bytes.end(), images.begin() + static_cast<long>(i * kCifarPixels),
                 images.begin() + static_cast<long>((i + 1) * kCifarPixels));
  }
  return bytes;
}

class CifarFile : public testing::TestWithParam<CifarFormat> {
 protected:
  const CifarFormat format_ = GetParam();
  Bytes images_ = noise_bytes(kImages * kCifarPixels);
  Bytes records_ = records(format_, images_, kImages);
  TempDir dir_;
};

TEST_P(CifarFile, ImagesAndLabelsArePartedAndTheFineLabelCounts) {
  const std::string path = dir_.write("batch.bin", records_);
  EXPECT_NO_THROW(check_cifar_file(path, format_, kImages));
  Bytes images(images_.size()), labels(kImages);
  load_cifar_file(path, format_, images, labels);
  EXPECT_TRUE(images == images_);
  for (size_t i = 0; i < kImages; ++i) EXPECT_EQ(labels[i], i % static_cast<size_t>(format_.classes));
}

TEST_P(CifarFile, AnyOtherSizeIsRejected) {
  const auto size = static_cast<long>(records_.size());
  const long record = format_.record_bytes();
  for (const long wrong : {0L, 1L, record - 1, record, size - record, size - 1, size + 1, size + record}) {
    Bytes bytes = records_;
    bytes.resize(static_cast<size_t>(wrong));
    const std::string path = dir_.write("batch.bin", bytes);
    const std::string text = user_error([&] { check_cifar_file(path, format_, kImages); });
    EXPECT_CONTAINS(text, path);
    EXPECT_CONTAINS(text, wrong < size ? "is truncated" : "is too long");
    EXPECT_CONTAINS(text, std::to_string(wrong) + " bytes");
    Bytes images(images_.size()), labels(kImages);
    user_error([&] { load_cifar_file(path, format_, images, labels); });
  }
}

TEST_P(CifarFile, ALabelOutOfRangeIsNamedWithItsFileAndImage) {
  const size_t place =
      149 * static_cast<size_t>(format_.record_bytes()) + static_cast<size_t>(format_.label_bytes) - 1;
  records_[place] = static_cast<uint8_t>(format_.classes);
  const std::string path = dir_.write("batch.bin", records_);
  Bytes images(images_.size()), labels(kImages);
  const std::string text = user_error([&] { load_cifar_file(path, format_, images, labels); });
  EXPECT_CONTAINS(text, path + " gives image 149 the label " + std::to_string(format_.classes));
}

TEST_P(CifarFile, ADirectoryOrNothingIsRejected) {
  EXPECT_CONTAINS(user_error([&] { check_cifar_file(dir_.path(), format_, 1); }), "is a directory");
  EXPECT_CONTAINS(user_error([&] { check_cifar_file(dir_.path("x"), format_, 1); }), "No such file");
}

INSTANTIATE_TEST_SUITE_P(Formats, CifarFile, testing::Values(kCifar10, kCifar100),
                         [](const auto& info) { return "Cifar" + std::to_string(info.param.classes); });

}  // namespace
}  // namespace annulus
