// Files in the safetensors format, in which PyTorch's users keep weights: a header that says which tensors
// there are, and their bytes.
//
//   +-----------------+-------------------------------------------+----------+----------+---
//   | header's length | header: JSON text, spaces at the end      | tensor 0 | tensor 1 | ...
//   | 8 bytes         | up to a multiple of 64 from the beginning |          |          |
//   +-----------------+-------------------------------------------+----------+----------+---
//
//   {"__metadata__": {"key": "text", ...},
//    "conv1.weight": {"dtype": "F32", "shape": [64, 3, 3, 3], "data_offsets": [0, 6912]}, ...}
//
// Numbers are little-endian, tensors row-major, offsets counted from the end of the header. Tensors lie one
// behind the other without holes, up to the end of the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/input_file.h"

namespace annulus {

enum class TensorType : uint8_t { kF32, kI64 };
const char* name_of(TensorType type);  // "F32"
int64_t bytes_of(TensorType type);     // of an element

struct TensorInfo {
  std::string name;
  TensorType type = TensorType::kF32;
  std::vector<int64_t> shape = {};  // empty: a scalar
  int64_t begin = 0, end = 0;       // bytes from the end of the header

  int64_t elements() const;
  bool operator==(const TensorInfo&) const = default;
};
std::string text_of_shape(std::span<const int64_t> shape);  // "[64, 3, 3, 3]"

using Metadata = std::vector<std::pair<std::string, std::string>>;

// Fills begin and end: in the order of the list, those with larger elements first, so that each lies at a
// multiple of its element's size.
void place_tensors(std::vector<TensorInfo>& tensors);

// All that stands before the tensors: the length and the header. Metadata comes first, in its order, without
// spaces: {"__metadata__":{"key":"text","...
std::string safetensors_head(const Metadata& metadata, const std::vector<TensorInfo>& tensors);

// A file that somebody else wrote, mapped read-only. Whoever replaces such a file must rename a new one into
// its place: a file that is cut short while it is mapped ends the program (SIGBUS).
class SafetensorsFile {
 public:
  // Opens it and checks the whole header: its length and syntax, every tensor's type and size, that they lie
  // without overlap and holes, and that the file ends where they end. Throws UserError with file and reason.
  explicit SafetensorsFile(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::string& path() const { return file_.path(); }
  int64_t size() const { return file_.size(); }
  int64_t data_begin() const { return data_begin_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // as they lie
  const TensorInfo* find(std::string_view name) const;                 // null: there is none

  std::span<const std::byte> bytes(const TensorInfo& tensor) const;
  std::span<const float> floats(const TensorInfo& tensor) const;  // of an F32

  // Hands all of the file to `visit`, piece by piece, by read calls: a disk that fails is then an error
  // (UserError) and no SIGBUS.
  void read_all(const std::function<void(int64_t offset, std::span<const uint8_t>)>& visit) const;

 private:
  InputFile file_;
  int64_t data_begin_ = 0;
  std::map<std::string, std::string> metadata_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, size_t, std::less<>> places_;  // in tensors_
  const std::byte* mapping_ = nullptr;
};

}  // namespace annulus
