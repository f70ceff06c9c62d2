#include "runtime/safetensors.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "telemetry/check.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

static_assert(std::endian::native == std::endian::little,
              "tensors are written and read as they lie in memory");

using Json = nlohmann::json;

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kAlignment = 64;                   // of the first tensor; a cache line, as everywhere
constexpr int64_t kLongestHeader = 100'000'000;      // the format's own limit
constexpr int64_t kMostElements = int64_t{1} << 60;  // so that bytes fit into 64 bits
constexpr const char* kMetadataKey = "__metadata__";

[[noreturn]] void reject(const std::string& path, const std::string& what) {
  throw UserError::format("{}: {}", path, what);
}

// A path may hold bytes that are no UTF-8, which JSON cannot: they become U+FFFD.
std::string quoted(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

// Throws a text that says what is wrong with it.
Json parse_header(const std::string& path, std::string_view text) {
  if (!text.starts_with('{')) reject(path, "its header does not begin with {; this is no safetensors file");
  std::set<std::string> names;
  std::string twice;
  const auto visit = [&](int depth, Json::parse_event_t event, const Json& value) {
    if (event == Json::parse_event_t::key && depth == 1 && !names.insert(value.get<std::string>()).second) {
      twice = value.get<std::string>();
    }
    return true;
  };
  Json header;
  try {
    header = Json::parse(text, visit);
  } catch (const Json::parse_error& error) {
    reject(path, fmt::format("its header is no JSON from byte {} on", kLengthBytes + error.byte));
  }
  if (!twice.empty()) reject(path, fmt::format("its header names {} twice", twice));
  return header;
}

std::map<std::string, std::string> read_metadata(const std::string& path, const Json& json) {
  if (!json.is_object()) reject(path, fmt::format("its {} is no map", kMetadataKey));
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : json.items()) {
    if (!value.is_string()) reject(path, fmt::format("its {} has {} that is no text", kMetadataKey, key));
    metadata[key] = value.get<std::string>();
  }
  return metadata;
}

int64_t whole_number(const std::string& path, const std::string& name, const Json& json) {
  if (!json.is_number_unsigned() || json.get<uint64_t>() > uint64_t{kMostElements}) {
    reject(path, fmt::format("tensor {}: its header has {} where a size belongs", name, json.dump()));
  }
  return json.get<int64_t>();
}

TensorInfo read_tensor(const std::string& path, const std::string& name, const Json& json) {
  const auto list = [&](const char* key) {
    return json.is_object() && json.contains(key) && json.at(key).is_array();
  };
  if (!list("shape") || !list("data_offsets") || json.at("data_offsets").size() != 2 ||
      !json.contains("dtype") || !json.at("dtype").is_string() || json.size() != 3) {
    reject(path, fmt::format("tensor {}: its header is not dtype, shape and data_offsets", name));
  }
  TensorInfo tensor{.name = name};
  const std::string type = json.at("dtype");
  if (type == name_of(TensorType::kI64)) {
    tensor.type = TensorType::kI64;
  } else if (type != name_of(TensorType::kF32)) {
    reject(path, fmt::format("tensor {}: its type is {}; Annulus reads F32 and I64", name, type));
  }
  int64_t elements = 1;
  for (const Json& size : json.at("shape")) {
    tensor.shape.push_back(whole_number(path, name, size));
    if (__builtin_mul_overflow(elements, tensor.shape.back(), &elements) || elements > kMostElements) {
      reject(path, fmt::format("tensor {}: its shape {} is too large", name, text_of_shape(tensor.shape)));
    }
  }
  tensor.begin = whole_number(path, name, json.at("data_offsets")[0]);
  tensor.end = whole_number(path, name, json.at("data_offsets")[1]);
  if (tensor.end - tensor.begin != elements * bytes_of(tensor.type)) {
    reject(path, fmt::format("tensor {}: {} {} takes {} bytes, but lies from {} to {}", name, type,
                             text_of_shape(tensor.shape), elements * bytes_of(tensor.type), tensor.begin,
                             tensor.end));
  }
  return tensor;
}

// `data_bytes`: from the end of the header to the end of the file.
void check_places(const std::string& path, const std::vector<TensorInfo>& tensors, int64_t data_bytes) {
  int64_t end = 0;
  const std::string* last = nullptr;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.begin != end) {
      reject(path, fmt::format("tensor {} begins at byte {} of the data, but {} at byte {}", tensor.name,
                               tensor.begin, last ? *last + " ends" : "the data begins", end));
    }
    if (tensor.begin % bytes_of(tensor.type) != 0) {
      reject(path, fmt::format("tensor {} begins at byte {} of the data, no multiple of its elements' size",
                               tensor.name, tensor.begin));
    }
    if (tensor.end > data_bytes) {
      reject(path, fmt::format("the file is cut short: tensor {} ends at byte {} of the data, of which there "
                               "are {}",
                               tensor.name, tensor.end, data_bytes));
    }
    end = tensor.end;
    last = &tensor.name;
  }
  if (end != data_bytes) {
    reject(path, fmt::format("{} bytes too many behind its last tensor", data_bytes - end));
  }
}

}  // namespace

const char* name_of(TensorType type) { return type == TensorType::kF32 ? "F32" : "I64"; }
int64_t bytes_of(TensorType type) { return type == TensorType::kF32 ? 4 : 8; }

int64_t TensorInfo::elements() const { return (end - begin) / bytes_of(type); }

std::string text_of_shape(std::span<const int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

void place_tensors(std::vector<TensorInfo>& tensors) {
  int64_t at = 0;
  for (const TensorType type : {TensorType::kI64, TensorType::kF32}) {
    for (TensorInfo& tensor : tensors) {
      if (tensor.type != type) continue;
      int64_t bytes = bytes_of(type);
      for (const int64_t size : tensor.shape) bytes *= size;
      tensor.begin = at;
      tensor.end = at += bytes;
    }
  }
}

std::string safetensors_head(const Metadata& metadata, const std::vector<TensorInfo>& tensors) {
  std::string text = fmt::format("{{\"{}\":{{", kMetadataKey);
  for (size_t i = 0; i < metadata.size(); ++i) {
    text += fmt::format("{}{}:{}", i == 0 ? "" : ",", quoted(metadata[i].first), quoted(metadata[i].second));
  }
  text += "}";
  for (const TensorInfo& tensor : tensors) {
    text +=
        fmt::format(",{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", quoted(tensor.name),
                    name_of(tensor.type), fmt::join(tensor.shape, ","), tensor.begin, tensor.end);
  }
  text += "}";
  const int64_t unpadded = kLengthBytes + static_cast<int64_t>(text.size());
  text.append(static_cast<size_t>((unpadded + kAlignment - 1) / kAlignment * kAlignment - unpadded), ' ');
  const uint64_t length = text.size();
  std::string head(kLengthBytes, '\0');
  std::memcpy(head.data(), &length, sizeof length);
  return head + text;
}

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(path) {
  if (size() < kLengthBytes) {
    reject(path, fmt::format("the file is cut short: it has {} bytes, and its header's length alone takes {}",
                             size(), kLengthBytes));
  }
  uint64_t length = 0;
  uint8_t word[kLengthBytes];
  file_.read(0, word);
  std::memcpy(&length, word, sizeof length);
  if (length > static_cast<uint64_t>(kLongestHeader)) {
    reject(path, fmt::format("its first 8 bytes announce a header of {} bytes, more than the format allows; "
                             "they are damaged, or this is no safetensors file",
                             length));
  }
  data_begin_ = kLengthBytes + static_cast<int64_t>(length);
  if (data_begin_ > size()) {
    reject(path, fmt::format("the file is cut short: its header ends at byte {}, the file at byte {}",
                             data_begin_, size()));
  }
  if (data_begin_ % bytes_of(TensorType::kI64) != 0) {
    reject(path, fmt::format("its header ends at byte {}, no multiple of 8", data_begin_));
  }
  std::string text(length, '\0');
  file_.read(kLengthBytes, {reinterpret_cast<uint8_t*>(text.data()), text.size()});
  const Json header = parse_header(path, text);
  for (const auto& [name, json] : header.items()) {
    if (name == kMetadataKey) {
      metadata_ = read_metadata(path, json);
    } else {
      tensors_.push_back(read_tensor(path, name, json));
    }
  }
  // An empty tensor shares its place with the next one.
  std::ranges::sort(tensors_, [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  check_places(path, tensors_, size() - data_begin_);
  for (size_t i = 0; i < tensors_.size(); ++i) places_[tensors_[i].name] = i;

  void* const mapping =
      mmap(nullptr, static_cast<size_t>(size()), PROT_READ, MAP_PRIVATE, file_.descriptor(), 0);
  if (mapping == MAP_FAILED) reject(path, fmt::format("cannot be mapped: {}", std::strerror(errno)));
  mapping_ = static_cast<const std::byte*>(mapping);
}

SafetensorsFile::~SafetensorsFile() { munmap(const_cast<std::byte*>(mapping_), static_cast<size_t>(size())); }

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto found = places_.find(name);
  return found == places_.end() ? nullptr : &tensors_[found->second];
}

std::span<const std::byte> SafetensorsFile::bytes(const TensorInfo& tensor) const {
  CHECK(0 <= tensor.begin && tensor.begin <= tensor.end && data_begin_ + tensor.end <= size());
  return {mapping_ + data_begin_ + tensor.begin, static_cast<size_t>(tensor.end - tensor.begin)};
}

std::span<const float> SafetensorsFile::floats(const TensorInfo& tensor) const {
  CHECK(tensor.type == TensorType::kF32, "tensor {} is {}", tensor.name, name_of(tensor.type));
  return {reinterpret_cast<const float*>(bytes(tensor).data()), static_cast<size_t>(tensor.elements())};
}

void SafetensorsFile::read_all(
    const std::function<void(int64_t offset, std::span<const uint8_t>)>& visit) const {
  std::vector<uint8_t> piece(size_t{1} << 20);
  for (int64_t at = 0; at < size();) {
    const std::span<uint8_t> part(piece.data(),
                                  static_cast<size_t>(std::min<int64_t>(std::ssize(piece), size() - at)));
    file_.read(at, part);
    visit(at, part);
    at += std::ssize(part);
  }
}

}  // namespace annulus
