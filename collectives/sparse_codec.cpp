#include "collectives/sparse_codec.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/reduce.h"
#include "telemetry/check.h"

namespace annulus {
namespace {

static_assert(std::endian::native == std::endian::little, "messages are written as they lie in memory");

struct Header {
  uint32_t format;
  uint32_t n;
  uint32_t count;
};
static_assert(sizeof(Header) == 12);
constexpr int64_t kHeaderBytes = sizeof(Header);

constexpr int64_t kBlock = 65'536;  // indices that share one count of kExact
int64_t blocks_of(int64_t n) { return (n + kBlock - 1) / kBlock; }

// Gaps with equally many trailing bytes.
struct GapClass {
  uint32_t first_lead;
  uint32_t first_gap;
  uint32_t trail_bytes;
};
constexpr std::array<GapClass, 4> kGapClasses = {
    {{0, 0, 0}, {240, 240, 1}, {252, 3'312, 2}, {255, 199'920, 4}}};
constexpr int64_t kLongestTrail = 4;

// What a lead says of its gap: gap = base + (trailing bytes & mask).
struct Lead {
  uint32_t base;
  uint32_t mask;
  uint32_t trail_bytes;
};
constexpr std::array<Lead, 256> make_leads() {
  std::array<Lead, 256> leads{};
  for (uint32_t lead = 0; lead < leads.size(); ++lead) {
    GapClass c = kGapClasses[0];
    for (const GapClass& next : kGapClasses) {
      if (lead >= next.first_lead) c = next;
    }
    // The last class has one lead, and no bits in it.
    leads[lead] = {c.first_gap + static_cast<uint32_t>(uint64_t{lead - c.first_lead} << 8 * c.trail_bytes),
                   static_cast<uint32_t>((uint64_t{1} << 8 * c.trail_bytes) - 1), c.trail_bytes};
  }
  return leads;
}
constexpr std::array<Lead, 256> kLeads = make_leads();
static_assert(kLeads[251].base + kLeads[251].mask + 1 == kLeads[252].base);
static_assert(kLeads[254].base + kLeads[254].mask + 1 == kLeads[255].base);

// Numbers lie in a message at any address.
template <typename T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <typename T>
void store(T value, std::byte* to) {
  std::memcpy(to, &value, sizeof value);
}

constexpr int64_t kPart = 1024;  // of values that are converted through the cache

// Values as they lie in a message, at any address.
struct Fp16 {
  static constexpr int64_t kBytes = 2;

  static void narrow_values(std::span<const float> values, std::byte* to) {
    uint16_t half[kPart];
    for (size_t i = 0; i < values.size(); i += kPart) {
      const auto part = values.subspan(i, std::min<size_t>(kPart, values.size() - i));
      narrow(DataType::kF16, static_cast<int64_t>(part.size()), part.data(), half);
      std::memcpy(to + i * kBytes, half, part.size() * kBytes);
    }
  }
  static void widen_values(const std::byte* from, std::span<float> values) {
    uint16_t half[kPart];
    for (size_t i = 0; i < values.size(); i += kPart) {
      const auto part = values.subspan(i, std::min<size_t>(kPart, values.size() - i));
      std::memcpy(half, from + i * kBytes, part.size() * kBytes);
      widen(DataType::kF16, static_cast<int64_t>(part.size()), half, part.data());
    }
  }
};

constexpr std::array<float, 256> make_e3m4() {
  std::array<float, 256> numbers{};
  for (int code = 0; code < 256; ++code) {
    const int e = code >> 4 & 7, m = code & 15;
    const int sixteenths = e == 0 ? m : (16 + m) << (e - 1);
    numbers[code] = static_cast<float>(sixteenths) / (code < 128 ? 16.0f : -16.0f);
  }
  return numbers;
}
constexpr std::array<float, 256> kE3M4 = make_e3m4();

struct E3M4 {
  static constexpr int64_t kBytes = 1;

  static std::byte narrow_value(float value) {
    const float magnitude = std::fabs(value) < 124.0f ? std::fabs(value) : 124.0f;
    const auto bits = std::bit_cast<uint32_t>(magnitude);
    // The upper bits of an fp32 number, with another bias; a carry of the rounding goes into the exponent.
    const uint32_t normal = ((bits + 0x3ffff + (bits >> 19 & 1)) >> 19) - (126u << 4);
    // Sixteenths, rounded as what lies above 2^23 is.
    const uint32_t small = std::bit_cast<uint32_t>(magnitude * 16 + 0x1p23f) & 0xff;
    const uint32_t sign = std::bit_cast<uint32_t>(value) >> 24 & 0x80;
    return static_cast<std::byte>(sign | (magnitude < 1 ? small : normal));
  }
  static void narrow_values(std::span<const float> values, std::byte* to) {
    for (size_t i = 0; i < values.size(); ++i) to[i] = narrow_value(values[i]);
  }
  static void widen_values(const std::byte* from, std::span<float> values) {
    for (size_t i = 0; i < values.size(); ++i) values[i] = kE3M4[std::to_integer<int>(from[i])];
  }
};

// Both encoders return the end of what they wrote.
template <typename Values>
std::byte* encode_gaps(std::span<const uint32_t> indices, std::span<const float> values, std::byte* out) {
  std::byte* trail = out + indices.size();
  uint32_t next = 0;  // the index before, plus one
  for (const uint32_t index : indices) {
    const uint32_t gap = index - next;
    if (gap < kGapClasses[2].first_gap) [[likely]] {
      // One byte or two: a coin's toss, so arithmetic picks, and no branch. `rest` has 8 bits if one is
      // enough.
      constexpr uint32_t kLong = kGapClasses[1].first_gap;
      static_assert(kLong == kGapClasses[1].first_lead && kLong < 256);
      const uint32_t is_long = gap >= kLong;
      const uint32_t rest = gap - (kLong & -is_long);
      *out++ = static_cast<std::byte>(std::min(gap, kLong) + (rest >> 8));
      *trail = static_cast<std::byte>(rest);  // overwritten unless it counts
      trail += is_long;
    } else {
      const GapClass& c = kGapClasses[gap < kGapClasses[3].first_gap ? 2 : 3];
      const uint32_t rest = gap - c.first_gap;
      *out++ = static_cast<std::byte>(c.first_lead + (uint64_t{rest} >> 8 * c.trail_bytes));
      std::memcpy(trail, &rest, c.trail_bytes);
      trail += c.trail_bytes;
    }
    next = index + 1;
  }
  Values::narrow_values(values, trail);
  return trail + values.size() * Values::kBytes;
}

std::byte* encode_exact(int64_t n, std::span<const uint32_t> indices, std::span<const float> values,
                        std::byte* out) {
  std::byte* const counts = out;
  out += blocks_of(n) * sizeof(uint32_t);
  if (!values.empty()) std::memcpy(out, values.data(), values.size_bytes());
  out += values.size_bytes();
  auto at = indices.begin();
  for (int64_t block = 0; block < blocks_of(n); ++block) {
    const auto begin = at;
    for (; at != indices.end() && *at / kBlock == block; ++at, out += sizeof(uint16_t)) {
      store(static_cast<uint16_t>(*at), out);
    }
    store(static_cast<uint32_t>(at - begin), counts + block * sizeof(uint32_t));
  }
  return out;
}

template <typename... Args>
[[noreturn]] void refuse(SparseFault fault, fmt::format_string<Args...> what, Args&&... args) {
  throw SparseCodecError(fault, "sparse message: " + fmt::format(what, std::forward<Args>(args)...));
}

[[noreturn]] void refuse_size(int64_t bytes, int64_t needed) {
  refuse(bytes < needed ? SparseFault::kTruncated : SparseFault::kTooLong, "{} bytes, where it needs {}",
         bytes, needed);
}

void check_range(uint64_t index, int64_t n) {
  if (index >= static_cast<uint64_t>(n)) {
    refuse(SparseFault::kRange, "index {} in a vector of {} elements", index, n);
  }
}

// `body` is what follows the header. Room for `count` entries is made only when the body is known to have
// bytes for them.
template <typename Values>
void decode_gaps(std::span<const std::byte> body, int64_t n, int64_t count, std::vector<uint32_t>& indices,
                 std::vector<float>& values) {
  const int64_t body_bytes = static_cast<int64_t>(body.size()), fixed_bytes = (1 + Values::kBytes) * count;
  if (body_bytes < fixed_bytes) refuse_size(kHeaderBytes + body_bytes, kHeaderBytes + fixed_bytes);
  indices.resize(count);
  values.resize(count);

  const std::byte* const leads = body.data();
  const std::byte* trail = leads + count;
  const std::byte* const end = leads + body_bytes;
  const std::byte* const stored_values = end - Values::kBytes * count;
  uint64_t next = 0;  // the index before, plus one; 64 bits, so that a part of the message cannot overflow it
  int64_t i = 0;
  const auto take = [&](uint32_t trail_and_more) {
    const Lead& lead = kLeads[static_cast<uint8_t>(leads[i])];
    next += lead.base + uint64_t{trail_and_more & lead.mask};
    indices[i++] = static_cast<uint32_t>(next++);
    trail += lead.trail_bytes;
  };
  while (i < count) {
    if (const int64_t whole = (end - trail) / kLongestTrail; whole > 0) {
      // A part that stays inside the message however long its trails are; checked once.
      const int64_t stop = std::min({count, i + whole, i + kPart});
      while (i < stop) take(load<uint32_t>(trail));
    } else {
      uint32_t last_bytes = 0;
      std::memcpy(&last_bytes, trail, end - trail);
      take(last_bytes);
    }
    check_range(next - 1, n);
    if (trail > stored_values) break;
  }
  if (trail != stored_values) {
    refuse_size(kHeaderBytes + body_bytes, kHeaderBytes + (trail - leads) + Values::kBytes * count);
  }
  Values::widen_values(stored_values, values);
}

void decode_exact(std::span<const std::byte> body, int64_t n, int64_t count, std::vector<uint32_t>& indices,
                  std::vector<float>& values) {
  const int64_t body_bytes = static_cast<int64_t>(body.size()), blocks = blocks_of(n);
  const int64_t needed = 4 * blocks + 6 * count;
  if (body_bytes != needed) refuse_size(kHeaderBytes + body_bytes, kHeaderBytes + needed);
  indices.resize(count);
  values.resize(count);
  const std::byte* const counts = body.data();
  const std::byte* const stored_values = counts + 4 * blocks;
  if (count > 0) std::memcpy(values.data(), stored_values, 4 * count);

  const std::byte* const offsets = stored_values + 4 * count;
  int64_t done = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t entries = load<uint32_t>(counts + 4 * block);
    if (entries == 0) continue;
    if (entries > count - done) {
      refuse(SparseFault::kCount, "blocks 0 to {} have {} entries, of {} in all", block, done + entries,
             count);
    }
    const std::byte* const from = offsets + 2 * done;
    const uint32_t base = static_cast<uint32_t>(block * kBlock);
    uint32_t* const out = indices.data() + done;
    bool ascends = true;
    out[0] = base + load<uint16_t>(from);
    for (int64_t i = 1; i < entries; ++i) {
      const uint16_t before = load<uint16_t>(from + 2 * (i - 1)), offset = load<uint16_t>(from + 2 * i);
      ascends &= before < offset;
      out[i] = base + offset;
    }
    if (!ascends) refuse(SparseFault::kOrder, "the indices of block {} do not ascend", block);
    done += entries;
  }
  if (done != count) refuse(SparseFault::kCount, "its blocks have {} entries, of {} in all", done, count);
  if (count > 0) check_range(indices.back(), n);
}

bool ascend_below(int64_t n, std::span<const uint32_t> indices) {
  uint32_t descents = 0;  // a number rather than a bool, which the compiler makes no vectors of
  for (size_t i = 1; i < indices.size(); ++i) descents |= indices[i - 1] >= indices[i];
  return descents == 0 && (indices.empty() || indices.back() < n);
}

}  // namespace

int64_t encoded_bound(int64_t n, int64_t count, SparseFormat format) {
  CHECK(count >= 0 && count <= n && n <= kMostSparseElements, "{} entries of {} elements", count, n);
  if (format == SparseFormat::kExact) return kHeaderBytes + blocks_of(n) * 4 + count * 6;
  // A gap of g takes g + 1 of the n indices.
  const auto most = [&](const GapClass& c) { return std::min(count, n / (c.first_gap + 1)); };
  const int64_t trails = most(kGapClasses[1]) + most(kGapClasses[2]) + 2 * most(kGapClasses[3]);
  const int64_t value_bytes = format == SparseFormat::kCompact ? Fp16::kBytes : E3M4::kBytes;
  return kHeaderBytes + count * (1 + value_bytes) + trails;
}

int64_t encode(int64_t n, std::span<const uint32_t> indices, std::span<const float> values,
               SparseFormat format, std::span<std::byte> out) {
  const int64_t count = static_cast<int64_t>(indices.size()), room = encoded_bound(n, count, format);
  CHECK(values.size() == indices.size(), "{} values for {} indices", values.size(), count);
  CHECK(static_cast<int64_t>(out.size()) >= room, "{} bytes, where up to {} are written", out.size(), room);
  CHECK(ascend_below(n, indices), "indices of a sparse vector of {} elements", n);
  store(Header{static_cast<uint32_t>(format), static_cast<uint32_t>(n), static_cast<uint32_t>(count)},
        out.data());
  std::byte* const body = out.data() + kHeaderBytes;
  const std::byte* const end = format == SparseFormat::kExact  ? encode_exact(n, indices, values, body)
                               : format == SparseFormat::kTiny ? encode_gaps<E3M4>(indices, values, body)
                                                               : encode_gaps<Fp16>(indices, values, body);
  return end - out.data();
}

void round_values(SparseFormat format, std::span<float> values) {
  if (format == SparseFormat::kExact) return;
  std::byte narrow[kPart * Fp16::kBytes];
  for (size_t i = 0; i < values.size(); i += kPart) {
    const auto part = values.subspan(i, std::min<size_t>(kPart, values.size() - i));
    if (format == SparseFormat::kTiny) {
      E3M4::narrow_values(part, narrow);
      E3M4::widen_values(narrow, part);
    } else {
      Fp16::narrow_values(part, narrow);
      Fp16::widen_values(narrow, part);
    }
  }
}

void decode(std::span<const std::byte> message, int64_t n, std::vector<uint32_t>& indices,
            std::vector<float>& values) {
  CHECK(n >= 0 && n <= kMostSparseElements, "{} elements", n);
  const int64_t bytes = static_cast<int64_t>(message.size());
  if (bytes < kHeaderBytes) refuse_size(bytes, kHeaderBytes);
  const Header header = load<Header>(message.data());
  if (header.n != n) {
    refuse(SparseFault::kElements, "about a vector of {} elements, where one of {} was due", header.n, n);
  }
  if (header.count > n) {
    refuse(SparseFault::kCount, "{} entries for a vector of {} elements", header.count, n);
  }
  const auto body = message.subspan(kHeaderBytes);
  switch (static_cast<SparseFormat>(header.format)) {
    case SparseFormat::kCompact:
      return decode_gaps<Fp16>(body, n, header.count, indices, values);
    case SparseFormat::kTiny:
      return decode_gaps<E3M4>(body, n, header.count, indices, values);
    case SparseFormat::kExact:
      return decode_exact(body, n, header.count, indices, values);
  }
  refuse(SparseFault::kFormat, "format {}; there are 1 (compact), 2 (exact) and 3 (tiny)", header.format);
}

}  // namespace annulus
