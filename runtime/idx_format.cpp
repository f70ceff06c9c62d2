#include "runtime/idx_format.h"

#include <libdeflate.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <memory>

#include "runtime/input_file.h"
#include "telemetry/check.h"
#include "telemetry/error.h"

namespace annulus {

namespace {

constexpr int64_t kLargestHeader = 16;
constexpr int64_t kGzipOverhead = 18;        // header and trailer of a gzip member
constexpr int64_t kDeflateBestRatio = 1032;  // no deflate stream expands further
constexpr int kLargestSide = 4096;

using HeaderBytes = std::array<uint8_t, kLargestHeader>;

uint32_t big_endian(const uint8_t* bytes) {
  return uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | bytes[3];
}

bool is_gzip(const InputFile& input) {
  std::array<uint8_t, 2> magic{};
  if (input.size() < 2) return false;
  input.read(0, magic);
  return magic[0] == 0x1f && magic[1] == 0x8b;
}

// Fills `out` with the first bytes of what the gzipped file holds.
void inflate_front(const InputFile& input, std::span<uint8_t> out) {
  const int descriptor = ::dup(input.descriptor());
  const gzFile stream = descriptor < 0 ? nullptr : ::gzdopen(descriptor, "rb");
  if (stream == nullptr) {
    if (descriptor >= 0) ::close(descriptor);
    throw UserError::format("cannot open {} a second time; raise the limit of open files (ulimit -n)",
                            input.path());
  }
  ::gzbuffer(stream, 512);
  const int got = ::gzread(stream, out.data(), static_cast<unsigned>(out.size()));
  ::gzclose_r(stream);
  if (got != static_cast<int>(out.size())) {
    reject_data_file(input.path(), "is truncated or damaged: gzip cannot inflate its first bytes");
  }
}

// What a gzipped file says it inflates to, modulo 2^32.
uint32_t gzip_trailer_size(const InputFile& input) {
  std::array<uint8_t, 4> bytes{};
  input.read(input.size() - 4, bytes);
  return uint32_t{bytes[3]} << 24 | uint32_t{bytes[2]} << 16 | uint32_t{bytes[1]} << 8 | bytes[0];
}

void check_magic(const std::string& path, IdxContent content, const uint8_t* header) {
  const int dimensions = static_cast<int>(content);
  if (big_endian(header) == (0x800u | static_cast<uint32_t>(dimensions))) return;
  const char* wanted = content == IdxContent::kImages ? "images" : "labels";
  if (header[0] == 0 && header[1] == 0 && header[2] == 8) {
    reject_data_file(
        path, fmt::format("should hold {}, with {} dimension(s), but has {}", wanted, dimensions, header[3]));
  }
  reject_data_file(path, fmt::format("is no IDX file of {}: it starts with {:08x}, not 000008{:02x}", wanted,
                                     big_endian(header), dimensions));
}

void check_size(const InputFile& input, bool gzip, const IdxFile& file) {
  const int64_t wanted = file.header_bytes() + file.payload_bytes();
  if (!gzip) {
    if (input.size() != wanted) {
      reject_data_file(file.path,
                       fmt::format("is {}: it has {} bytes, its header asks for {}",
                                   input.size() < wanted ? "truncated" : "too long", input.size(), wanted));
    }
    return;
  }
  if (wanted > input.size() * kDeflateBestRatio) {
    reject_data_file(file.path,
                     fmt::format("is truncated or damaged: its header asks for {} bytes, more than its {} "
                                 "gzipped bytes can hold",
                                 wanted, input.size()));
  }
  if (gzip_trailer_size(input) != static_cast<uint32_t>(wanted)) {
    reject_data_file(file.path,
                     fmt::format("is truncated or damaged: its header asks for {} bytes, the end of the gzip "
                                 "file speaks of {}",
                                 wanted, gzip_trailer_size(input)));
  }
}

IdxFile parse_header(const std::string& path, IdxContent content, const HeaderBytes& header) {
  check_magic(path, content, header.data());
  IdxFile file{.path = path, .content = content};
  file.count = big_endian(&header[4]);
  if (file.count == 0) {
    reject_data_file(path, content == IdxContent::kImages ? "holds no images" : "holds no labels");
  }
  if (content == IdxContent::kImages) {
    const uint32_t height = big_endian(&header[8]);
    const uint32_t width = big_endian(&header[12]);
    // The limit also keeps count x height x width far from overflow.
    if (std::min(height, width) < 1 || std::max(height, width) > kLargestSide) {
      reject_data_file(path, fmt::format("claims images of {} x {} pixels; sides from 1 to {} can be read",
                                         height, width, kLargestSide));
    }
    file.height = static_cast<int>(height);
    file.width = static_cast<int>(width);
  }
  return file;
}

void inflate_whole(const InputFile& input, std::span<uint8_t> out) {
  // A copy, not a mapping: a file that shrinks under a mapping kills the process with SIGBUS.
  const auto size = static_cast<size_t>(input.size());
  const auto compressed = std::make_unique_for_overwrite<uint8_t[]>(size);
  input.read(0, {compressed.get(), size});

  const std::unique_ptr<libdeflate_decompressor, decltype(&libdeflate_free_decompressor)> decompressor(
      libdeflate_alloc_decompressor(), libdeflate_free_decompressor);
  CHECK(decompressor != nullptr, "out of memory");
  size_t used = 0;
  // Without a place for the actual size, libdeflate insists on exactly out.size() bytes. It verifies the CRC.
  const libdeflate_result result = libdeflate_gzip_decompress_ex(decompressor.get(), compressed.get(), size,
                                                                 out.data(), out.size(), &used, nullptr);
  switch (result) {
    case LIBDEFLATE_SUCCESS:
      break;
    case LIBDEFLATE_SHORT_OUTPUT:
    case LIBDEFLATE_INSUFFICIENT_SPACE:
      reject_data_file(input.path(),
                       fmt::format("is damaged: it inflates to {} than the {} bytes its header asks for",
                                   result == LIBDEFLATE_SHORT_OUTPUT ? "less" : "more", out.size()));
    default:
      reject_data_file(input.path(), "is truncated or damaged: its gzip data or checksum is wrong");
  }
  if (used != size) {
    reject_data_file(input.path(), fmt::format("has {} bytes behind the end of its gzip data", size - used));
  }
}

}  // namespace

IdxFile describe_idx_file(const std::string& path, IdxContent content) {
  const InputFile input(path);
  const bool gzip = is_gzip(input);
  const auto header_bytes = static_cast<size_t>(IdxFile{.path = path, .content = content}.header_bytes());
  if (input.size() < (gzip ? kGzipOverhead : static_cast<int64_t>(header_bytes))) {
    reject_data_file(path, fmt::format("is {}: it has {} bytes, too few for a header",
                                       input.size() == 0 ? "empty" : "truncated", input.size()));
  }
  HeaderBytes header{};
  const std::span<uint8_t> front(header.data(), header_bytes);
  if (gzip) {
    inflate_front(input, front);
  } else {
    input.read(0, front);
  }
  IdxFile file = parse_header(path, content, header);
  check_size(input, gzip, file);
  return file;
}

void load_idx_file(const IdxFile& file, std::span<uint8_t> payload) {
  CHECK(static_cast<int64_t>(payload.size()) == file.payload_bytes(), "{} bytes for {}", payload.size(),
        file.path);
  const InputFile input(file.path);
  const auto header_bytes = static_cast<size_t>(file.header_bytes());
  const std::span<uint8_t> whole(payload.data() - header_bytes, header_bytes + payload.size());
  if (is_gzip(input)) {
    inflate_whole(input, whole);
  } else {
    input.read(0, whole);
  }
  HeaderBytes header{};
  std::copy_n(whole.begin(), header_bytes, header.begin());
  const IdxFile now = parse_header(file.path, file.content, header);
  if (now.count != file.count || now.height != file.height || now.width != file.width) {
    reject_data_file(file.path, "has changed while the run was starting");
  }
}

}  // namespace annulus
