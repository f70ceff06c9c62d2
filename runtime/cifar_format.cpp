#include "runtime/cifar_format.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "runtime/input_file.h"
#include "telemetry/check.h"
#include "telemetry/error.h"

namespace annulus {

namespace {

constexpr int64_t kRecordsPerRead = 64;  // 192 KiB: fits a second-level cache

void check_size(const InputFile& input, const CifarFormat& format, int64_t images) {
  const int64_t wanted = images * format.record_bytes();
  if (input.size() == wanted) return;
  reject_data_file(input.path(),
                   fmt::format("is {}: it has {} bytes, {} images in CIFAR-{}'s binary format have {}",
                               input.size() < wanted ? "truncated" : "too long", input.size(), images,
                               format.classes, wanted));
}

}  // namespace

void check_cifar_file(const std::string& path, const CifarFormat& format, int64_t images) {
  check_size(InputFile(path), format, images);
}

void load_cifar_file(const std::string& path, const CifarFormat& format, std::span<uint8_t> images,
                     std::span<uint8_t> labels) {
  CHECK(images.size() == labels.size() * kCifarPixels, "{} bytes, {} labels", images.size(), labels.size());
  const InputFile input(path);
  const auto count = static_cast<int64_t>(labels.size());
  check_size(input, format, count);

  const int64_t record_bytes = format.record_bytes();
  std::vector<uint8_t> records(static_cast<size_t>(kRecordsPerRead * record_bytes));
  for (int64_t first = 0; first < count; first += kRecordsPerRead) {
    const int64_t some = std::min(kRecordsPerRead, count - first);
    input.read(first * record_bytes, {records.data(), static_cast<size_t>(some * record_bytes)});
    for (int64_t i = 0; i < some; ++i) {
      const uint8_t* record = &records[static_cast<size_t>(i * record_bytes)];
      const uint8_t label = record[format.label_bytes - 1];
      if (label >= format.classes) {
        reject_data_file(path, fmt::format("gives image {} the label {}; there are {} classes", first + i,
                                           label, format.classes));
      }
      labels[static_cast<size_t>(first + i)] = label;
      std::memcpy(&images[static_cast<size_t>((first + i) * kCifarPixels)], record + format.label_bytes,
                  kCifarPixels);
    }
  }
}

}  // namespace annulus
