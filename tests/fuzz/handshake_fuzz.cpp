// libFuzzer's entry to the handshake between hosts. Two bytes say how, the rest is what the other side sends:
// bit 0 of the first to a server or to a client, bit 1 with proofs made right, as one who knows the secret
// would; the second: in pieces of how many bytes.
#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "collectives/handshake.h"
#include "telemetry/check.h"

using namespace annulus;

namespace {

using Bytes = std::span<const std::byte>;

constexpr size_t kHello = 88, kChallenge = 72, kResponse = 40, kVerdict = 96, kProof = 32;

Secret secret() {
  std::array<std::byte, Secret::kBytes> bytes{};
  return Secret(bytes);
}

Identity own() { return {.purpose = Purpose::kBridge, .node = 1, .world = 4, .attempt = 2, .job = 3}; }

Refusal judge(const Identity& peer) {
  const Refusal refusal = compare(own(), peer);
  const Refusal result = refusal == Refusal::kNone ? compare_attempts(own(), peer) : refusal;
  CHECK(!describe(result, own(), peer).empty());
  return result;
}

// Hears both sides, and makes proofs as either.
class Insider : public Handshake {
 public:
  Insider() : Handshake(secret(), own(), judge, 1) {}

  void hear(Bytes message) { converse(message); }
  // `message` with the proof that it should end with.
  std::vector<std::byte> proven(Bytes message, const char* role) {
    std::vector<std::byte> result(message.begin(), message.end());
    prove_and_send(result, role);
    return result;
  }

 private:
  void take(Bytes) override {}
};

void feed(Handshake& side, Bytes bytes, size_t piece) {
  while (!bytes.empty()) {
    const Bytes part = bytes.first(std::min(piece, bytes.size()));
    const size_t wanted = side.wants(), taken = side.feed(part);
    CHECK(taken <= part.size() && (taken == part.size() || side.state() != Handshake::State::kRunning));
    CHECK(taken >= std::min(wanted, part.size()));
    CHECK((side.wants() == 0) == (side.state() != Handshake::State::kRunning));
    CHECK(side.wants() <= kVerdict);  // the longest message
    if (taken == 0) return;
    bytes = bytes.subspan(taken);
  }
}

// What has been said so far, and no more.
std::vector<std::byte> output_of(Handshake& side) {
  const std::vector<std::byte> bytes(side.output().begin(), side.output().end());
  side.sent(bytes.size());
  return bytes;
}

bool is_stranger(const Handshake& side) {
  return side.state() == Handshake::State::kRefused && side.refusal() == Refusal::kStranger;
}

void talk_to_server(Bytes input, size_t piece, bool is_insider) {
  ServerHandshake server(secret(), own(), judge);
  if (!is_insider || input.size() < kHello + 8) {
    feed(server, input, piece);
    CHECK(server.state() == Handshake::State::kRunning || is_stranger(server));
    CHECK(server.output().size() == (server.was_greeted() ? kChallenge : 0));
    return;
  }
  Insider insider;
  const Bytes hello = input.first(kHello);
  feed(server, hello, piece);
  if (is_stranger(server)) return;
  insider.hear(hello);
  insider.hear(output_of(server));
  std::vector<std::byte> response(kResponse);
  std::ranges::copy(input.subspan(kHello, 8), response.begin());  // its magic
  feed(server, insider.proven(response, "annulus client"), piece);
  if (is_stranger(server)) return;
  CHECK(server.state() != Handshake::State::kRunning && server.output().size() == kVerdict);
  CHECK(std::memcmp(&server.peer(), hello.data() + 8, sizeof(Identity)) == 0);
  CHECK((server.state() == Handshake::State::kDone) == (judge(server.peer()) == Refusal::kNone));
}

void talk_to_client(Bytes input, size_t piece, bool is_insider) {
  ClientHandshake client(secret(), own(), judge);
  const std::vector<std::byte> hello = output_of(client);
  CHECK(hello.size() == kHello);
  if (!is_insider || input.size() < kChallenge + kVerdict) {
    feed(client, input, piece);
    CHECK(client.state() == Handshake::State::kRunning || is_stranger(client));
    CHECK(client.output().empty());
    return;
  }
  Insider insider;
  insider.hear(hello);
  feed(client, insider.proven(input.first(kChallenge), "annulus server"), piece);
  if (is_stranger(client)) return;
  const std::vector<std::byte> response = output_of(client);
  CHECK(response.size() == kResponse);
  insider.hear(response);
  feed(client, insider.proven(input.subspan(kChallenge, kVerdict), "annulus verdict"), piece);
  CHECK(client.state() != Handshake::State::kRunning && client.output().empty());
  if (is_stranger(client)) return;
  CHECK(!describe(client.refusal(), own(), client.peer()).empty());
  CHECK(client.state() != Handshake::State::kDone || judge(client.peer()) == Refusal::kNone);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const Bytes input = std::as_bytes(std::span(data, size)).subspan(2);
  const bool to_client = (data[0] & 1) != 0, is_insider = (data[0] & 2) != 0;
  (to_client ? talk_to_client : talk_to_server)(input, std::max<size_t>(data[1], 1), is_insider);
  return 0;
}
