// The binary version of CIFAR-10 and CIFAR-100: records of label bytes and 3 x 32 x 32 image bytes, no
// header. https://www.cs.toronto.edu/~kriz/cifar.html
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace annulus {

inline constexpr int kCifarPixels = 3 * 32 * 32;

struct CifarFormat {
  int label_bytes;  // in front of each image; the last one is the label that counts
  int classes;
  int record_bytes() const { return label_bytes + kCifarPixels; }
};

inline constexpr CifarFormat kCifar10{.label_bytes = 1, .classes = 10};
inline constexpr CifarFormat kCifar100{.label_bytes = 2, .classes = 100};  // coarse, then fine

// Checks that the file has exactly `images` records: without a header, the published number is all that tells
// a whole file from a truncated one. Throws UserError. Reads nothing.
void check_cifar_file(const std::string& path, const CifarFormat& format, int64_t images);

// Reads labels.size() records: images (3,072 bytes each, channels x height x width) and labels. Throws
// UserError where the file is not of that size or a label is out of range.
void load_cifar_file(const std::string& path, const CifarFormat& format, std::span<uint8_t> images,
                     std::span<uint8_t> labels);

}  // namespace annulus
