#include "runtime/dataset.h"

#include <fmt/ranges.h>
#include <oneapi/tbb/parallel_for_each.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "runtime/cifar_format.h"
#include "runtime/idx_format.h"
#include "runtime/input_file.h"
#include "runtime/synthetic_data.h"
#include "telemetry/check.h"
#include "telemetry/error.h"

namespace annulus {

namespace {

struct PublishedFile {
  const char* name;
  DatasetPart part;
  DatasetContent content;
  int64_t count;  // images in it; 0: its header says
};

constexpr std::array<PublishedFile, 4> kIdxFiles = {{
    {"train-images-idx3-ubyte", DatasetPart::kTrain, DatasetContent::kIdxImages, 0},
    {"train-labels-idx1-ubyte", DatasetPart::kTrain, DatasetContent::kIdxLabels, 0},
    {"t10k-images-idx3-ubyte", DatasetPart::kTest, DatasetContent::kIdxImages, 0},
    {"t10k-labels-idx1-ubyte", DatasetPart::kTest, DatasetContent::kIdxLabels, 0},
}};

constexpr std::array<PublishedFile, 6> kCifar10Files = {{
    {"data_batch_1.bin", DatasetPart::kTrain, DatasetContent::kCifar10Records, 10000},
    {"data_batch_2.bin", DatasetPart::kTrain, DatasetContent::kCifar10Records, 10000},
    {"data_batch_3.bin", DatasetPart::kTrain, DatasetContent::kCifar10Records, 10000},
    {"data_batch_4.bin", DatasetPart::kTrain, DatasetContent::kCifar10Records, 10000},
    {"data_batch_5.bin", DatasetPart::kTrain, DatasetContent::kCifar10Records, 10000},
    {"test_batch.bin", DatasetPart::kTest, DatasetContent::kCifar10Records, 10000},
}};

constexpr std::array<PublishedFile, 2> kCifar100Files = {{
    {"train.bin", DatasetPart::kTrain, DatasetContent::kCifar100Records, 50000},
    {"test.bin", DatasetPart::kTest, DatasetContent::kCifar100Records, 10000},
}};

struct KnownDataset {
  const char* name;
  std::span<const PublishedFile> files;
  int classes;
  bool flip_allowed;
  Normalization normalization;  // mean and standard deviation of the published training images
  const char* folder;           // name of the folder in the published archive; "": none
  const char* installed;        // where Debian's package puts the files; "": there is none
  const char* remedy;
};

const std::array<KnownDataset, 4> kKnownDatasets = {{
    {"fashion-mnist",
     kIdxFiles,
     10,
     true,
     {{0.2860f}, {0.3530f, 1, 1}},
     "",
     "/usr/share/datasets/fashion-mnist",
     "Install it (apt-get install dataset-fashion-mnist), or put the four IDX files of "
     "https://github.com/zalandoresearch/fashion-mnist into a directory and give it with --data DIR"},
    {"mnist",
     kIdxFiles,
     10,
     false,
     {{0.1307f}, {0.3081f, 1, 1}},
     "",
     "/usr/share/datasets/mnist",
     "Get the four IDX files from https://yann.lecun.com/exdb/mnist/ or its mirror "
     "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz (and so on), put them, "
     "gzipped or not, "
     "into a directory and give it with --data DIR"},
    {"cifar10",
     kCifar10Files,
     10,
     true,
     {{0.4914f, 0.4822f, 0.4465f}, {0.2470f, 0.2435f, 0.2616f}},
     "cifar-10-batches-bin",
     "",
     "Get the binary version from https://www.cs.toronto.edu/~kriz/cifar.html, unpack it (data_batch_1.bin "
     ".. "
     "data_batch_5.bin and test_batch.bin) and give its directory with --data DIR"},
    {"cifar100",
     kCifar100Files,
     100,
     true,
     {{0.5071f, 0.4865f, 0.4409f}, {0.2673f, 0.2564f, 0.2762f}},
     "cifar-100-binary",
     "",
     "Get the binary version from https://www.cs.toronto.edu/~kriz/cifar.html, unpack it (train.bin and "
     "test.bin) and "
     "give its directory with --data DIR"},
}};

bool is_cifar(DatasetContent content) {
  return content == DatasetContent::kCifar10Records || content == DatasetContent::kCifar100Records;
}

const CifarFormat& cifar_format(DatasetContent content) {
  return content == DatasetContent::kCifar10Records ? kCifar10 : kCifar100;
}

int padding_for(const ImageShape& shape) { return std::min(shape.height, shape.width) >= 32 ? 4 : 2; }

// The path of a published file in `place`, as it is or gzipped; "" where there is neither.
std::string find_file(const std::string& place, const PublishedFile& published) {
  const std::string path = place + "/" + published.name;
  if (path_exists(path)) return path;
  if (!is_cifar(published.content) && path_exists(path + ".gz")) return path + ".gz";
  return "";
}

std::vector<std::string> search_places(const KnownDataset& known, const std::string& data_dir) {
  std::vector<std::string> roots;
  if (!data_dir.empty()) {
    roots.push_back(data_dir);
  } else {
    if (*known.installed != '\0') roots.push_back(known.installed);
    roots.push_back(std::string("data/") + known.name);
  }
  std::vector<std::string> places;
  for (const std::string& root : roots) {
    places.push_back(root);
    if (*known.folder != '\0') places.push_back(root + "/" + known.folder);
  }
  return places;
}

// The first place that holds any of the files: half a data set is reported, not passed over.
std::string find_place(const KnownDataset& known, const std::string& data_dir) {
  struct stat status {};
  if (!data_dir.empty() && ::stat(data_dir.c_str(), &status) == 0 && !S_ISDIR(status.st_mode)) {
    throw UserError::format("--data {} is not a directory. {}", data_dir, known.remedy);
  }
  const std::vector<std::string> places = search_places(known, data_dir);
  for (const std::string& place : places) {
    for (const PublishedFile& published : known.files) {
      if (!find_file(place, published).empty()) return place;
    }
  }
  throw UserError::format("data set {} not found: no {} in {}. {}", known.name, known.files.front().name,
                          fmt::join(places, ", "), known.remedy);
}

std::string part_name(DatasetPart part) { return part == DatasetPart::kTrain ? "training" : "test"; }

// Adds the images of one checked file to `info`.
void add_images(DatasetInfo& info, DatasetFile file, const ImageShape& shape) {
  if (info.shape != ImageShape{} && info.shape != shape) {
    reject_data_file(file.path,
                     fmt::format("has images of {} x {} x {} pixels, {} has {} x {} x {}", shape.channels,
                                 shape.height, shape.width, info.files.front().path, info.shape.channels,
                                 info.shape.height, info.shape.width));
  }
  info.shape = shape;
  int64_t& count = file.part == DatasetPart::kTrain ? info.train_count : info.test_count;
  file.first = count;
  count += file.count;
  info.files.push_back(std::move(file));
}

void add_idx_file(DatasetInfo& info, DatasetFile file) {
  if (file.content == DatasetContent::kIdxImages) {
    const IdxFile idx = describe_idx_file(file.path, IdxContent::kImages);
    file.count = idx.count;
    add_images(info, std::move(file), {1, idx.height, idx.width});
    return;
  }
  file.count = describe_idx_file(file.path, IdxContent::kLabels).count;
  const DatasetFile& images =
      info.files.back();  // the table names the images of a part right before its labels
  if (file.count != images.count) {
    reject_data_file(file.path, fmt::format("has {} labels for the {} {} images of {}", file.count,
                                            images.count, part_name(file.part), images.path));
  }
  info.files.push_back(std::move(file));
}

// Labels and images of one part.
struct PartView {
  std::span<uint8_t> images, labels;
};

void load_file(const DatasetInfo& info, const DatasetFile& file, const DatasetView& view) {
  const PartView part = file.part == DatasetPart::kTrain ? PartView{view.train_images, view.train_labels}
                                                         : PartView{view.test_images, view.test_labels};
  const auto pixels = static_cast<size_t>(info.shape.pixels());
  const auto first = static_cast<size_t>(file.first);
  const auto count = static_cast<size_t>(file.count);
  const std::span<uint8_t> images = part.images.subspan(first * pixels, count * pixels);
  const std::span<uint8_t> labels = part.labels.subspan(first, count);
  switch (file.content) {
    case DatasetContent::kIdxImages:
      load_idx_file({file.path, IdxContent::kImages, file.count, info.shape.height, info.shape.width},
                    images);
      break;
    case DatasetContent::kIdxLabels: {
      load_idx_file({.path = file.path, .content = IdxContent::kLabels, .count = file.count}, labels);
      const auto wrong =
          std::find_if(labels.begin(), labels.end(), [&](uint8_t l) { return l >= info.classes; });
      if (wrong != labels.end()) {
        reject_data_file(file.path, fmt::format("gives image {} the label {}; there are {} classes",
                                                wrong - labels.begin(), *wrong, info.classes));
      }
      break;
    }
    case DatasetContent::kCifar10Records:
    case DatasetContent::kCifar100Records:
      load_cifar_file(file.path, cifar_format(file.content), images, labels);
      break;
  }
}

void check_view(const DatasetInfo& info, const DatasetView& view) {
  const auto pixels = static_cast<size_t>(info.shape.pixels());
  CHECK(view.train_labels.size() == static_cast<size_t>(info.train_count));
  CHECK(view.test_labels.size() == static_cast<size_t>(info.test_count));
  CHECK(view.train_images.size() == view.train_labels.size() * pixels);
  CHECK(view.test_images.size() == view.test_labels.size() * pixels);
}

}  // namespace

DatasetInfo describe_dataset(const std::string& name, const std::string& data_dir) {
  if (name == "synthetic") return describe_synthetic({3, 32, 32}, 10, 8192, 1024);
  const auto known = std::find_if(kKnownDatasets.begin(), kKnownDatasets.end(),
                                  [&](const KnownDataset& candidate) { return name == candidate.name; });
  if (known == kKnownDatasets.end()) {
    throw UserError::format(
        "--dataset {} is not known; fashion-mnist, mnist, cifar10, cifar100 and synthetic are", name);
  }
  const std::string place = find_place(*known, data_dir);

  DatasetInfo info{.name = name,
                   .shape = {},
                   .classes = known->classes,
                   .normalization = known->normalization,
                   .flip_allowed = known->flip_allowed,
                   .files = {}};
  for (const PublishedFile& published : known->files) {
    const std::string path = find_file(place, published);
    if (path.empty()) {
      throw UserError::format("data set {} is incomplete: no {} in {}. {}", name, published.name, place,
                              known->remedy);
    }
    DatasetFile file{
        .path = path, .part = published.part, .content = published.content, .count = published.count};
    if (is_cifar(file.content)) {
      check_cifar_file(path, cifar_format(file.content), file.count);
      add_images(info, std::move(file), {3, 32, 32});
    } else {
      add_idx_file(info, std::move(file));
    }
  }
  info.crop_padding = padding_for(info.shape);
  return info;
}

DatasetInfo describe_synthetic(const ImageShape& shape, int classes, int64_t train_count,
                               int64_t test_count) {
  return {.name = "synthetic",
          .shape = shape,
          .classes = classes,
          .train_count = train_count,
          .test_count = test_count,
          .normalization = {{0.5f, 0.5f, 0.5f}, {0.23f, 0.23f, 0.23f}},
          .flip_allowed = false,  // a class is its pattern, and patterns have no symmetry
          .crop_padding = padding_for(shape),
          .files = {}};
}

void load_dataset(const DatasetInfo& info, const DatasetView& view) {
  check_view(info, view);
  if (info.files.empty()) {
    make_synthetic_images(info.shape, info.classes, SyntheticPart::kTrain, view.train_images,
                          view.train_labels);
    make_synthetic_images(info.shape, info.classes, SyntheticPart::kTest, view.test_images, view.test_labels);
    return;
  }
  tbb::parallel_for_each(info.files, [&](const DatasetFile& file) { load_file(info, file, view); });
}

}  // namespace annulus
