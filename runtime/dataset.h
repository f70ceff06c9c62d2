// Data sets: finding and checking the files (describe_dataset, in the launcher, before anything is started),
// and reading them into memory that all workers share (load_dataset, in the loader process).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/image_batch.h"
#include "kernels/network_spec.h"

namespace annulus {

enum class DatasetPart { kTrain, kTest };
enum class DatasetContent { kIdxImages, kIdxLabels, kCifar10Records, kCifar100Records };

struct DatasetFile {
  std::string path;
  DatasetPart part = DatasetPart::kTrain;
  DatasetContent content = DatasetContent::kIdxImages;
  int64_t first = 0;  // its images are first .. first + count - 1 of the part
  int64_t count = 0;
};

struct DatasetInfo {
  std::string name;
  ImageShape shape;
  int classes = 0;
  int64_t train_count = 0, test_count = 0;  // images
  Normalization normalization;
  bool flip_allowed = false;       // mirroring keeps the class: not so for digits
  int crop_padding = 0;            // pixels by which augmentation may shift an image
  std::vector<DatasetFile> files;  // none: synthetic
};

// Memory that load_dataset may overwrite in front of each array of a DatasetView. A gzipped IDX file holds
// its header (at most 16 bytes) and its images in one piece; with room for the header the images are inflated
// to where they belong, without a copy. A multiple of the segment's alignment, so arrays keep theirs.
inline constexpr size_t kDatasetHeadroom = 64;

// Where the data goes: bytes, one image after another, channels x height x width each; one byte per label.
// Each array has kDatasetHeadroom bytes in front that belong to no other array.
struct DatasetView {
  std::span<uint8_t> train_images;  // train_count * shape.pixels()
  std::span<uint8_t> train_labels;  // train_count
  std::span<uint8_t> test_images;   // test_count * shape.pixels()
  std::span<uint8_t> test_labels;   // test_count
};

// Finds and checks data set `name` (mnist, fashion-mnist, cifar10, cifar100, synthetic) in `data_dir` or,
// where that is empty, in its usual places. Reads headers only, starts no thread, allocates next to nothing,
// whatever the files claim. Throws UserError for anything missing, unreadable, truncated, wrong or
// mismatched.
DatasetInfo describe_dataset(const std::string& name, const std::string& data_dir);

// Synthetic data of any shape and size (classes <= 256), for benchmarks. Data set `synthetic` is 3 x 32 x 32
// with 10 classes, 8,192 train and 1,024 test images.
DatasetInfo describe_synthetic(const ImageShape& shape, int classes, int64_t train_count, int64_t test_count);

// Reads or makes all images and labels; spans must have exactly the sizes that `info` asks for. Verifies
// sizes, checksums and labels. Runs on oneTBB's threads. Throws UserError, with the arrays' content
// undefined.
void load_dataset(const DatasetInfo& info, const DatasetView& view);

}  // namespace annulus
