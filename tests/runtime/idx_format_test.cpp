#include "runtime/idx_format.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "tests/runtime/data_files.h"

namespace annulus {
namespace {

constexpr size_t kImages = 5, kHeight = 7, kWidth = 9;
constexpr size_t kPayload = kImages * kHeight * kWidth;

class IdxFormat : public testing::Test {
 protected:
  Bytes payload_ = noise_bytes(kPayload);
  Bytes plain_ = idx_bytes({kImages, kHeight, kWidth}, payload_);
  Bytes gzip_ = gzip_bytes(plain_);
  TempDir dir_;

  // Loads into memory that has nothing but the header's room in front, and returns the payload.
  static Bytes load(const IdxFile& file) {
    const auto front = static_cast<size_t>(file.header_bytes());
    Bytes memory(front + static_cast<size_t>(file.payload_bytes()), 0xee);
    load_idx_file(file, std::span(memory).subspan(front));
    memory.erase(memory.begin(), memory.begin() + static_cast<std::ptrdiff_t>(front));
    return memory;
  }

  std::string describe_error(const Bytes& bytes, IdxContent content = IdxContent::kImages) {
    const std::string path = dir_.write("bad", bytes);
    const std::string text = user_error([&] { describe_idx_file(path, content); });
    EXPECT_CONTAINS(text, path);
    EXPECT_CONTAINS(text, "; ");  // a remedy
    return text;
  }

  // The error of loading `bytes` where good_file was described.
  std::string load_error(const Bytes& bytes) {
    const IdxFile file{dir_.write("bad", bytes), IdxContent::kImages, kImages, kHeight, kWidth};
    const std::string text = user_error([&] { load(file); });
    EXPECT_CONTAINS(text, file.path);
    return text;
  }
};

TEST_F(IdxFormat, PlainImagesAreDescribedAndLoaded) {
  const IdxFile file = describe_idx_file(dir_.write("images", plain_), IdxContent::kImages);
  EXPECT_EQ(file.count, 5);
  EXPECT_EQ(file.height, 7);
  EXPECT_EQ(file.width, 9);
  EXPECT_EQ(load(file), payload_);
}

TEST_F(IdxFormat, GzippedImagesAreDescribedAndLoaded) {
  const IdxFile file = describe_idx_file(dir_.write("images.gz", gzip_), IdxContent::kImages);
  EXPECT_EQ(file.count, 5);
  EXPECT_EQ(file.height, 7);
  EXPECT_EQ(file.width, 9);
  EXPECT_EQ(load(file), payload_);
}

TEST_F(IdxFormat, LabelsArePlainOrGzipped) {
  const Bytes labels = noise_bytes(1000, 10);
  const Bytes bytes = idx_bytes({1000}, labels);
  for (const Bytes& written : {bytes, gzip_bytes(bytes)}) {
    const IdxFile file = describe_idx_file(dir_.write("labels", written), IdxContent::kLabels);
    EXPECT_EQ(file.count, 1000);
    EXPECT_EQ(load(file), labels);
  }
}

TEST_F(IdxFormat, ContentAndNotNameSaysWhetherAFileIsGzipped) {
  EXPECT_EQ(load(describe_idx_file(dir_.write("images", gzip_), IdxContent::kImages)), payload_);
  EXPECT_EQ(load(describe_idx_file(dir_.write("images.gz", plain_), IdxContent::kImages)), payload_);
}

TEST_F(IdxFormat, ATruncatedPlainFileIsRejectedAtEveryLength) {
  for (size_t size = 0; size < plain_.size(); ++size) {
    const std::string text = describe_error(Bytes(plain_.begin(), plain_.begin() + static_cast<long>(size)));
    EXPECT_CONTAINS(text, size == 0 ? "is empty" : "is truncated");
  }
}

TEST_F(IdxFormat, ATruncatedGzipFileIsRejectedAtEveryLength) {
  for (size_t size = 0; size < gzip_.size(); ++size) {
    const Bytes cut(gzip_.begin(), gzip_.begin() + static_cast<long>(size));
    EXPECT_CONTAINS(describe_error(cut), size == 0 ? "is empty" : "truncated");
    load_error(cut);
  }
}

TEST_F(IdxFormat, AFileThatIsTooLongIsRejected) {
  Bytes bytes = plain_;
  bytes.push_back(0);
  EXPECT_CONTAINS(describe_error(bytes), "is too long: it has 332 bytes, its header asks for 331");
}

TEST_F(IdxFormat, BytesBehindTheGzipDataAreRejected) {
  Bytes bytes = gzip_;
  bytes.insert(bytes.end(), gzip_.begin(), gzip_.end());  // so that the last four bytes are a plausible size
  EXPECT_CONTAINS(load_error(bytes), "behind the end");
}

TEST_F(IdxFormat, AWrongMagicIsRejected) {
  for (size_t byte = 0; byte < 4; ++byte) {
    Bytes bytes = plain_;
    bytes[byte] ^= 0x10;
    describe_error(bytes);
    describe_error(gzip_bytes(bytes));
    load_error(bytes);
  }
  Bytes floats = plain_;
  floats[2] = 0x0d;
  EXPECT_CONTAINS(describe_error(floats), "it starts with 00000d03, not 00000803");
}

TEST_F(IdxFormat, LabelsInThePlaceOfImagesAreNamed) {
  EXPECT_CONTAINS(describe_error(idx_bytes({20}, noise_bytes(20))),
                  "should hold images, with 3 dimension(s), but has 1");
  EXPECT_CONTAINS(describe_error(plain_, IdxContent::kLabels),
                  "should hold labels, with 1 dimension(s), but has 3");
}

TEST_F(IdxFormat, ImpossibleSizesAreRejected) {
  EXPECT_CONTAINS(describe_error(idx_bytes({0, 28, 28}, {})), "holds no images");
  EXPECT_CONTAINS(describe_error(idx_bytes({0}, {}), IdxContent::kLabels), "holds no labels");
  EXPECT_CONTAINS(describe_error(idx_bytes({5, 0, 28}, {})), "claims images of 0 x 28 pixels");
  EXPECT_CONTAINS(describe_error(idx_bytes({5, 28, 0}, {})), "claims images of 28 x 0 pixels");
  EXPECT_CONTAINS(describe_error(idx_bytes({5, 28, 4097}, {})), "sides from 1 to 4096");
  EXPECT_CONTAINS(describe_error(idx_bytes({1, 0x80000000u, 2}, {})), "claims images of");
}

TEST_F(IdxFormat, HugeCountsAreRejectedAndNotAllocated) {
  // 2^32 - 1 images of 16 MiB; 65,536 images of 65,536 pixels, which are 2^32 bytes and so 0 modulo 2^32.
  for (const std::vector<uint32_t>& sizes :
       {std::vector<uint32_t>{0xffffffffu, 4096, 4096}, std::vector<uint32_t>{65536, 256, 256}}) {
    const Bytes bytes = idx_bytes(sizes, {});
    EXPECT_CONTAINS(describe_error(bytes), "is truncated");
    EXPECT_CONTAINS(describe_error(gzip_bytes(bytes)), "can hold");
  }
}

TEST_F(IdxFormat, ATrailerThatContradictsTheHeaderIsRejected) {
  EXPECT_CONTAINS(describe_error(gzip_bytes(idx_bytes({6, 7, 9}, payload_))),
                  "its header asks for 394 bytes, the end of the gzip file speaks of 331");
}

TEST_F(IdxFormat, AFlippedBitAnywhereInAGzipFileIsNeverLoadedAsOtherImages) {
  // Bytes 3 to 9 of a gzip header (flags, time, system) may differ without harm: then the images are still
  // right.
  for (size_t byte = 0; byte < gzip_.size(); ++byte) {
    Bytes bytes = gzip_;
    bytes[byte] ^= 0x04;
    const IdxFile file{dir_.write("flipped", bytes), IdxContent::kImages, kImages, kHeight, kWidth};
    try {
      EXPECT_EQ(load(file), payload_) << "byte " << byte;
      EXPECT_TRUE(byte >= 3 && byte <= 9) << "byte " << byte;
    } catch (const UserError&) {
    }
  }
}

TEST_F(IdxFormat, AWrongChecksumIsRejected) {
  Bytes bytes = gzip_;
  bytes[bytes.size() - 8] ^= 1;
  EXPECT_CONTAINS(load_error(bytes), "checksum is wrong");
}

TEST_F(IdxFormat, AFileThatChangedAfterItWasDescribedIsRejected) {
  // Headers that differ in one number each; the described number of bytes is there.
  for (const std::vector<uint32_t>& sizes : {std::vector<uint32_t>{kImages - 1, kHeight, kWidth},
                                             {kImages, kHeight - 1, kWidth},
                                             {kImages, kHeight, kWidth - 1}}) {
    const Bytes other = idx_bytes(sizes, payload_);
    EXPECT_CONTAINS(load_error(other), "has changed");
    EXPECT_CONTAINS(load_error(gzip_bytes(other)), "has changed");
  }
  EXPECT_CONTAINS(load_error(Bytes(plain_.begin(), plain_.end() - 1)), "is truncated");
  EXPECT_CONTAINS(load_error(gzip_bytes(Bytes(plain_.begin(), plain_.end() - 1))), "inflates to less");
  Bytes longer = plain_;
  longer.push_back(0);
  EXPECT_CONTAINS(load_error(gzip_bytes(longer)), "inflates to more");
}

TEST_F(IdxFormat, WhatIsNoFileIsRejectedWithoutBlocking) {
  ::alarm(20);  // a watchdog: the open of a FIFO may wait for ever
  const auto error = [](const std::string& path) {
    return user_error([&] { describe_idx_file(path, IdxContent::kImages); });
  };
  EXPECT_CONTAINS(error(dir_.path()), "is a directory");
  ASSERT_EQ(::mkfifo(dir_.path("fifo").c_str(), 0600), 0);
  EXPECT_CONTAINS(error(dir_.path("fifo")), "is a device, pipe or socket");
  EXPECT_CONTAINS(error("/dev/zero"), "is a device, pipe or socket");
  EXPECT_CONTAINS(error(dir_.path("missing")), "No such file");
  ::alarm(0);
}

TEST_F(IdxFormat, AnUnreadableFileIsRejected) {
  const std::string path = dir_.write("secret", plain_);
  ASSERT_EQ(::chmod(path.c_str(), 0), 0);
  ASSERT_EQ(::chmod(dir_.path().c_str(), 0755), 0);
  const bool root = ::geteuid() == 0;  // root may read everything; become nobody for a moment
  if (root) {
    ASSERT_EQ(::seteuid(65534), 0);
  }
  const std::string text = user_error([&] { describe_idx_file(path, IdxContent::kImages); });
  if (root) {
    ASSERT_EQ(::seteuid(0), 0);
  }
  EXPECT_CONTAINS(text, "Permission denied");
  EXPECT_CONTAINS(text, path);
}

}  // namespace
}  // namespace annulus
