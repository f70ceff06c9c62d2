#include "collectives/handshake.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/random.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "telemetry/check.h"

namespace annulus {
namespace {

static_assert(std::endian::native == std::endian::little, "messages are written as they lie in memory");

using Bytes32 = std::array<std::byte, 32>;

constexpr uint64_t magic(const char (&text)[9]) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | static_cast<uint8_t>(text[i]);
  return value;
}
constexpr uint64_t kHelloMagic = magic("ann-helo"), kChallengeMagic = magic("ann-chal"),
                   kResponseMagic = magic("ann-resp"), kVerdictMagic = magic("ann-verd");

struct Hello {
  uint64_t magic;
  Identity from;
  Bytes32 number;
};
struct Challenge {
  uint64_t magic;
  Bytes32 number;
  Bytes32 proof;
};
struct Response {
  uint64_t magic;
  Bytes32 proof;
};
struct Verdict {
  uint64_t magic;
  Identity from;
  Refusal refusal;
  uint32_t zero;
  Bytes32 proof;
};
static_assert(sizeof(Hello) == 88 && sizeof(Challenge) == 72 && sizeof(Response) == 40 &&
              sizeof(Verdict) == 96);

constexpr char kServer[] = "annulus server", kClient[] = "annulus client", kVerdict[] = "annulus verdict";
constexpr size_t kConversationBytes =
    16 + sizeof(Hello) + sizeof(Challenge) + sizeof(Response) + sizeof(Verdict);

template <typename Message>
Message load(std::span<const std::byte> bytes) {
  CHECK(bytes.size() == sizeof(Message), "{} bytes", bytes.size());
  Message message;
  std::memcpy(&message, bytes.data(), sizeof message);
  return message;
}

template <typename Message>
std::span<std::byte> bytes_of(Message& message) {
  return std::as_writable_bytes(std::span(&message, 1));
}

Bytes32 fresh_number() {
  Bytes32 number;
  const ssize_t got = getrandom(number.data(), number.size(), 0);  // so few come whole
  CHECK(got == static_cast<ssize_t>(number.size()), "getrandom: {}", std::strerror(errno));
  return number;
}

std::string_view purpose_name(Purpose purpose) {
  switch (purpose) {
    case Purpose::kControl:
      return "control";
    case Purpose::kBridge:
      return "bridge";
  }
  return "unknown";
}

}  // namespace

Refusal compare(const Identity& own, const Identity& peer) {
  if (peer.wire_version != own.wire_version) return Refusal::kWireVersion;
  if (peer.program_hash != own.program_hash) return Refusal::kProgram;
  if (peer.job != own.job) return Refusal::kJob;
  if (peer.config_hash != own.config_hash) return Refusal::kConfig;
  if (peer.world != own.world) return Refusal::kWorld;
  if (peer.purpose != own.purpose) return Refusal::kPurpose;
  if (peer.node >= own.world) return Refusal::kUnknownRank;
  return Refusal::kNone;
}

Refusal compare_attempts(const Identity& own, const Identity& peer) {
  if (peer.attempt == own.attempt) return Refusal::kNone;
  return peer.attempt < own.attempt ? Refusal::kAttemptStale : Refusal::kAttemptEarly;
}

std::string describe(Refusal refusal, const Identity& own, const Identity& peer) {
  switch (refusal) {
    case Refusal::kNone:
      return "welcome";
    case Refusal::kStranger:
      return "it does not know this job's secret, or is no Annulus";
    case Refusal::kWireVersion:
      return fmt::format("another wire version: {} here, {} there", own.wire_version, peer.wire_version);
    case Refusal::kProgram:
      return fmt::format("another build of Annulus: {:016x} here, {:016x} there", own.program_hash,
                         peer.program_hash);
    case Refusal::kJob:
      return fmt::format("another job: {:016x} here, {:016x} there", own.job, peer.job);
    case Refusal::kConfig:
      return fmt::format("another configuration: hash {:016x} here, {:016x} there", own.config_hash,
                         peer.config_hash);
    case Refusal::kWorld:
      return fmt::format("another number of hosts: {} here, {} there", own.world, peer.world);
    case Refusal::kPurpose:
      return fmt::format("a connection for another purpose: {} here, {} there", purpose_name(own.purpose),
                         purpose_name(peer.purpose));
    case Refusal::kUnknownRank:
      return fmt::format("a rank that is not in the job: node {}, rank {} here; node {}, rank {} there",
                         own.node, own.rank, peer.node, peer.rank);
    case Refusal::kDuplicate:
      return fmt::format("a second connection between node {}, rank {} here and node {}, rank {} there",
                         own.node, own.rank, peer.node, peer.rank);
    case Refusal::kAttemptStale:
    case Refusal::kAttemptEarly:
      return fmt::format("another attempt: {} here, {} there", own.attempt, peer.attempt);
  }
  return fmt::format("refusal {}", static_cast<uint32_t>(refusal));
}

Handshake::Handshake(const Secret& secret, const Identity& own, Policy policy, size_t first_due)
    : secret_(secret), own_(own), policy_(std::move(policy)), due_(first_due) {
  CHECK(policy_ != nullptr);
  conversation_.reserve(kConversationBytes);
}

size_t Handshake::feed(std::span<const std::byte> bytes) {
  size_t taken = 0;
  while (wants() > 0 && taken < bytes.size()) {
    const auto part = bytes.subspan(taken, std::min(wants(), bytes.size() - taken));
    in_.insert(in_.end(), part.begin(), part.end());
    taken += part.size();
    if (wants() > 0) break;
    const std::vector<std::byte> message = std::exchange(in_, {});
    take(message);
  }
  return taken;
}

void Handshake::sent(size_t bytes) {
  CHECK(bytes <= output().size(), "{} bytes sent of {}", bytes, output().size());
  sent_ += bytes;
}

const Identity& Handshake::peer() const {
  CHECK(state_ != State::kRunning && refusal_ != Refusal::kStranger);
  return peer_;
}

Handshake::Proof Handshake::proof_of(const char* role) const {
  std::vector<std::byte> signed_bytes(16);
  CHECK(std::strlen(role) < signed_bytes.size());
  std::memcpy(signed_bytes.data(), role, std::strlen(role));
  signed_bytes.insert(signed_bytes.end(), conversation_.begin(), conversation_.end());
  Proof proof;
  unsigned size = 0;
  const auto* result = HMAC(EVP_sha256(), secret_.bytes().data(), Secret::kBytes,
                            reinterpret_cast<const unsigned char*>(signed_bytes.data()), signed_bytes.size(),
                            reinterpret_cast<unsigned char*>(proof.data()), &size);
  CHECK(result != nullptr && size == proof.size(), "OpenSSL has no HMAC-SHA256");
  return proof;
}

bool Handshake::is_proven(std::span<const std::byte> message, const char* role) {
  const auto proof = message.last<sizeof(Proof)>();
  converse(message.first(message.size() - proof.size()));
  const Proof expected = proof_of(role);
  converse(proof);
  return CRYPTO_memcmp(proof.data(), expected.data(), expected.size()) == 0;
}

void Handshake::prove_and_send(std::span<std::byte> message, const char* role) {
  const auto proof = message.last<sizeof(Proof)>();
  converse(message.first(message.size() - proof.size()));
  std::ranges::copy(proof_of(role), proof.begin());
  converse(proof);
  send(message);
}

ServerHandshake::ServerHandshake(const Secret& secret, const Identity& own, Policy policy)
    : Handshake(secret, own, std::move(policy), sizeof(Hello)) {}

void ServerHandshake::take(std::span<const std::byte> message) {
  if (!greeted_) {
    const auto hello = load<Hello>(message);
    if (hello.magic != kHelloMagic) return end(Refusal::kStranger);
    greeted_ = true;
    peer_ = hello.from;
    converse(message);
    Challenge challenge{kChallengeMagic, fresh_number(), {}};
    prove_and_send(bytes_of(challenge), kServer);
    due_ = sizeof(Response);
    return;
  }
  if (load<Response>(message).magic != kResponseMagic || !is_proven(message, kClient)) {
    return end(Refusal::kStranger);
  }
  const Refusal refusal = peer_.wire_version != own_.wire_version ? Refusal::kWireVersion : policy_(peer_);
  CHECK(refusal != Refusal::kStranger && static_cast<uint32_t>(refusal) < kRefusals);
  Verdict verdict{kVerdictMagic, own_, refusal, 0, {}};
  prove_and_send(bytes_of(verdict), kVerdict);
  end(refusal);
}

ClientHandshake::ClientHandshake(const Secret& secret, const Identity& own, Policy policy)
    : Handshake(secret, own, std::move(policy), sizeof(Challenge)) {
  Hello hello{kHelloMagic, own, fresh_number()};
  converse(bytes_of(hello));
  send(bytes_of(hello));
}

void ClientHandshake::take(std::span<const std::byte> message) {
  if (!challenged_) {
    if (load<Challenge>(message).magic != kChallengeMagic || !is_proven(message, kServer)) {
      return end(Refusal::kStranger);
    }
    challenged_ = true;
    Response response{kResponseMagic, {}};
    prove_and_send(bytes_of(response), kClient);
    due_ = sizeof(Verdict);
    return;
  }
  const auto verdict = load<Verdict>(message);
  if (verdict.magic != kVerdictMagic || verdict.zero != 0 || !is_proven(message, kVerdict) ||
      verdict.refusal == Refusal::kStranger || static_cast<uint32_t>(verdict.refusal) >= kRefusals) {
    return end(Refusal::kStranger);
  }
  peer_ = verdict.from;
  if (verdict.refusal != Refusal::kNone) return end(verdict.refusal);
  end(peer_.wire_version != own_.wire_version ? Refusal::kWireVersion : policy_(peer_));
}

}  // namespace annulus
