// IDX: the format of MNIST and its kin. A big-endian header (magic 00 00 08 <dimensions>, then one 32-bit
// size per dimension), then bytes. Files may be gzipped; whether they are, their content says, not their
// name.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace annulus {

// The value is the number of dimensions.
enum class IdxContent : uint8_t { kLabels = 1, kImages = 3 };

struct IdxFile {
  std::string path;
  IdxContent content = IdxContent::kImages;
  int64_t count = 0;          // images or labels, at least 1
  int height = 1, width = 1;  // 1 x 1 for labels

  int64_t header_bytes() const { return 4 + 4 * static_cast<int>(content); }  // 8 or 16
  int64_t payload_bytes() const { return count * height * width; }
};

// Reads the header and checks it against the file's size (in a gzipped file, against the size that its
// trailer gives). Cheap: reads a few hundred bytes, whatever the header claims. Throws UserError.
IdxFile describe_idx_file(const std::string& path, IdxContent content);

// Reads the whole file into `payload` (file.payload_bytes() bytes) and verifies gzip's checksum and that the
// header is still the one that was described. Throws UserError, with the content of `payload` undefined.
//
// The file.header_bytes() bytes in front of `payload` must be writable and are overwritten: a gzip stream has
// the header and the payload in one piece, and inflating it in place needs no second copy of the images.
void load_idx_file(const IdxFile& file, std::span<uint8_t> payload);

}  // namespace annulus
