#include "collectives/secret.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "collectives/unique_fd.h"
#include "telemetry/check.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

constexpr size_t kDigits = 2 * Secret::kBytes;

// -1: no digit.
int digit_value(std::byte digit) {
  const char c = static_cast<char>(digit);
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// A buffer that holds a secret for a while.
template <size_t kSize>
struct Wiped {
  std::array<std::byte, kSize> bytes{};
  ~Wiped() { OPENSSL_cleanse(bytes.data(), bytes.size()); }
};

}  // namespace

Secret::Secret(std::span<const std::byte, kBytes> bytes) { std::ranges::copy(bytes, bytes_.begin()); }

Secret::~Secret() { OPENSSL_cleanse(bytes_.data(), bytes_.size()); }

Secret read_secret(const std::string& path) {
  const auto refuse = [&](const std::string& why) -> UserError {
    return UserError::format(
        "secret file {}: {}. This makes one: (umask 077; openssl rand -hex 32 > FILE); copy it to every host",
        path, why);
  };
  // O_NONBLOCK: a pipe would be waited for.
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) throw refuse(std::strerror(errno));
  struct stat status;
  if (fstat(fd.get(), &status) != 0) throw refuse(std::strerror(errno));
  if (!S_ISREG(status.st_mode)) throw refuse("not a regular file");
  if ((status.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    throw UserError::format(
        "secret file {}: others than its owner may use it (mode {:03o}). Remedy: chmod 600 {}", path,
        status.st_mode & 0777, path);
  }

  Wiped<kDigits + 2> content;  // a line's end and a byte more, which shows that the file is too long
  size_t size = 0;
  while (size < content.bytes.size()) {
    const ssize_t got = read(fd.get(), content.bytes.data() + size, content.bytes.size() - size);
    if (got < 0) throw refuse(std::strerror(errno));
    if (got == 0) break;
    size += static_cast<size_t>(got);
  }
  if (size == Secret::kBytes) return Secret(std::span(content.bytes).first<Secret::kBytes>());
  if (size == kDigits + 1 && content.bytes[kDigits] == std::byte{'\n'}) size = kDigits;
  if (size != kDigits) throw refuse("neither 64 hexadecimal digits nor 32 bytes");
  Wiped<Secret::kBytes> secret;
  for (size_t i = 0; i < Secret::kBytes; ++i) {
    const int high = digit_value(content.bytes[2 * i]), low = digit_value(content.bytes[2 * i + 1]);
    if (high < 0 || low < 0) throw refuse("not all of its 64 characters are hexadecimal digits");
    secret.bytes[i] = static_cast<std::byte>(high << 4 | low);
  }
  return Secret(secret.bytes);
}

Secret new_secret() {
  Wiped<Secret::kBytes> secret;
  // So few bytes come whole, or not at all.
  const ssize_t got = getrandom(secret.bytes.data(), secret.bytes.size(), 0);
  CHECK(got == static_cast<ssize_t>(secret.bytes.size()), "getrandom: {}", std::strerror(errno));
  return Secret(secret.bytes);
}

}  // namespace annulus
