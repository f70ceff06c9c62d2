#include "launcher/host_message.h"

#include <gtest/gtest.h>

#include <random>
#include <stdexcept>

namespace annulus {
namespace {

using Kind = HostMessage::Kind;

const HostReport kReport{.facts = {{"version", "0.1.0 (abc)"}, {"lr", "0.1"}},
                         .ports = {40'001, 65'535},
                         .checkpoints = {{12, "xxh64=0123"}, {9, "xxh64=4567"}}};
const HostStart kStart{.job = ~uint64_t{0}, .ports = {{1, 2}, {3, 4}}, .step = 12, .run_dir = "runs/x y"};

const std::vector<HostMessage> kAll = {
    {.kind = Kind::kJoin, .report = kReport},
    {.kind = Kind::kStart, .start = kStart},
    {.kind = Kind::kRefuse, .text = "host | what\n\"a\" | b"},
    {.kind = Kind::kAbort, .attempt = 3, .text = "rank 1 was killed"},
    {.kind = Kind::kParked, .attempt = 3, .step = ~uint32_t{0}},
    {.kind = Kind::kResume, .attempt = 4, .step = 17},
    {.kind = Kind::kFinished, .attempt = 4},
    {.kind = Kind::kDismiss},
    {.kind = Kind::kWarn, .text = "rank 0 is slow"},
    {.kind = Kind::kStop, .code = 2},
    {.kind = Kind::kQuit, .code = 15},
    {.kind = Kind::kFailed, .code = 137, .text = "budget"},
    {.kind = Kind::kEnd, .code = 1, .text = "host b was lost"},
    {.kind = Kind::kEnded, .step = 17},
    {.kind = Kind::kSettle, .step = 16},
};

std::string refusal(const std::string& text) {
  try {
    host_message(text);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "(accepted)";
}

TEST(HostMessage, ComesBackAsItWas) {
  for (const HostMessage& message : kAll)
    EXPECT_EQ(host_message(to_json(message)), message) << to_json(message);
}

TEST(HostMessage, EveryFieldIsChecked) {
  EXPECT_EQ(refusal("{\"kind\":"), "a message that is no JSON");
  EXPECT_EQ(refusal("[]"), "a message is no object");
  EXPECT_EQ(refusal("{}"), "a message has no kind");
  EXPECT_EQ(refusal(R"({"kind":"halt"})"), "a message of kind 'halt'");
  EXPECT_EQ(refusal(R"({"kind":"finished"})"), "a message has no attempt");
  EXPECT_EQ(refusal(R"({"kind":"finished","attempt":-1})"),
            "attempt of a message is no number up to 4294967295");
  EXPECT_EQ(refusal(R"({"kind":"finished","attempt":4294967296})"),
            "attempt of a message is no number up to 4294967295");
  EXPECT_EQ(refusal(R"({"kind":"finished","attempt":1.5})"),
            "attempt of a message is no number up to 4294967295");
  EXPECT_EQ(refusal(R"({"kind":"finished","attempt":1,"step":2})"), "a message has 3 fields, not 2");
  EXPECT_EQ(refusal(R"({"kind":"stop","code":300})"), "code of a message is no number up to 255");
  EXPECT_EQ(refusal(R"({"kind":"refuse","text":7})"), "text of a message is no text of at most 65536 bytes");
  EXPECT_EQ(refusal(R"({"kind":"join","report":{"facts":[],"ports":[0],"checkpoints":[]}})"),
            "a port is no number from 1 to 65535");
  EXPECT_EQ(refusal(R"({"kind":"join","report":{"facts":[{"name":"a"}],"ports":[],"checkpoints":[]}})"),
            "a fact has no value");
  EXPECT_EQ(refusal(R"({"kind":"start","start":{"job":1,"ports":[7],"step":0,"run_dir":""}})"),
            "ports of a host are no list");
  EXPECT_EQ(refusal(std::string(kMostMessageBytes + 1, ' ')), "a message of 1048577 bytes");
  const std::string deep = std::string(1000, '[') + std::string(1000, ']');
  EXPECT_EQ(refusal(R"({"kind":"refuse","text":)" + deep + "}"), "a message with lists in lists in lists");
}

TEST(HostMessage, NoDamagedTextDoesMoreThanThrow) {
  std::mt19937 random(1);
  for (const HostMessage& message : kAll) {
    const std::string whole = to_json(message);
    for (int i = 0; i < 2000; ++i) {
      std::string text = whole;
      for (int changes = 1 + static_cast<int>(random() % 3); changes > 0; --changes) {
        text[random() % text.size()] = static_cast<char>(random());
      }
      refusal(text);
      refusal(whole.substr(0, random() % whole.size()));
    }
  }
}

TEST(HostMessage, LongAndStrangeTextsAreSentAsFarAsTheyCan) {
  const HostMessage message{.kind = Kind::kFailed, .code = 1, .text = std::string(1 << 20, '\xff')};
  EXPECT_LT(to_json(message).size(), kMostMessageBytes);
  EXPECT_EQ(host_message(to_json(message)).code, 1);
}

}  // namespace
}  // namespace annulus
