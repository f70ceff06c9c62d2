// What a run on several hosts says of the bytes between them, compared with what the kernel has counted; and
// whether it says when compression does not pay.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <regex>
#include <sstream>

#include "tests/end_to_end/network_of_hosts.h"

namespace annulus {
namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;

const Words kRun = {"train",   "--hosts", "hosts",     "--dataset",    "synthetic",    "--model", "mlp",
                    "--steps", "120",     "--run-dir", "run",          "--eval-every", "0",       "--lr",
                    "0.01",    "--port",  "23456",     "--batch-size", "128"};

class HostsWireTest : public OnHosts {
 protected:
  Ended run(const Words& flags) {
    const Ended end = run_annulus(with(kRun, flags), on(0));
    EXPECT_EQ(end.code, 0) << end.out << end.err;
    return end;
  }
  // Lines of steps of this host.
  std::vector<Json> steps(const std::string& directory) const {
    std::vector<Json> steps;
    std::istringstream lines(read_file(scratch_ / (directory + "/metrics.jsonl")));
    for (std::string line; std::getline(lines, line);) {
      const Json json = Json::parse(line);
      if (json.contains("step_ms")) steps.push_back(json);
    }
    return steps;
  }
  Json summary(const std::string& directory) const {
    return Json::parse(read_file(scratch_ / (directory + "/summary.json")));
  }
  static double sum(const std::vector<Json>& steps, const std::string& key) {
    double sum = 0;
    for (const Json& step : steps) sum += step.at(key).get<double>();
    return sum;
  }
  // Bytes of Ethernet frames that the host has sent so far.
  double sent_by(int host) const {
    const std::string file = scratch_ / "sent";
    shell("ip netns exec " + network_->name(host) + " cp /sys/class/net/eth0/statistics/tx_bytes " + file);
    return std::stod(read_file(file));
  }
  static bool matches(const std::string& text, const std::string& pattern) {
    return std::regex_search(text, std::regex(pattern));
  }
};

TEST_F(HostsWireTest, TheMetricsHaveTheBytesThatTheKernelHasSent) {
  make_hosts(2);
  if (IsSkipped()) return;
  write_file(scratch_ / "hosts", network_->hosts_file("slots=2"));
  for (const std::string compress : {"none", "fp16", "topk"}) {
    SCOPED_TRACE(compress);
    std::filesystem::remove_all(scratch_ / "run");
    const double before[] = {sent_by(0), sent_by(1)};
    Words flags = {"--compress", compress};
    if (compress == "topk") flags = with(flags, {"--ratio", "0.1", "--ratio-warmup", "0"});
    const Ended end = run(flags);
    for (const int host : {0, 1}) {
      const std::string directory = host == 0 ? "run" : "run/node-1";
      const std::vector<Json> lines = steps(directory);
      const Json whole = summary(directory);
      ASSERT_EQ(lines.size(), 120u);
      // The launchers talk too, and frames have headers.
      const double counted = sum(lines, "wire_bytes"), sent = sent_by(host) - before[host];
      EXPECT_LE(counted, sent);
      EXPECT_GE(counted, 0.9 * sent);
      EXPECT_EQ(counted, whole.at("wire_bytes"));
      for (const std::string key : {"wire_ms", "wire_cpu_ms", "encode_ms", "decode_ms"}) {
        EXPECT_NEAR(sum(lines, key), whole.at(key), 0.5) << key;
      }
      EXPECT_GT(whole.at("wire_cpu_ms"), 0);
      const double saved = whole.at("wire_saved");
      EXPECT_NEAR(sum(lines, "wire_saved") / 120, saved, 1e-9);
      EXPECT_NEAR(sum(lines, "wire_saved_bytes"), whole.at("wire_saved_bytes"), 120);
      EXPECT_NEAR(counted * saved, whole.at("wire_saved_bytes").get<double>() * (1 - saved), 1000);
      // Of 4 bytes: all of them, two, or some 3 for one element in ten.
      const double expected = compress == "none" ? 0 : compress == "fp16" ? 0.5 : 0.92;
      EXPECT_NEAR(saved, expected, 0.02);
      EXPECT_EQ(whole.at("encode_ms") > 0, compress == "topk");
      EXPECT_EQ(whole.at("decode_ms") > 0, compress == "topk");
      EXPECT_EQ(whole.contains("compression"), compress == "topk");
    }
    EXPECT_EQ(matches(end.line("wire "), "% less than whole gradients"), compress != "none") << end.out;
    EXPECT_TRUE(matches(end.line("wire "),
                        R"(sent to other hosts.*ms on the way at up to [0-9.]+ Gbit/s.*processor time)"))
        << end.out;
    EXPECT_EQ(matches(end.line("wire "), "to encode and .* to decode"), compress == "topk") << end.out;
    const std::string less = compress == "none" ? "" : R"(, [0-9.]+ % less)",
                      coding = compress == "topk" ? R"(  encode [0-9.]+  decode [0-9.]+ ms)" : "";
    EXPECT_TRUE(matches(
        end.out, R"(T_sync [0-9.]+ ms  wire [0-9.]+ MB)" + less + R"(, [0-9.]+ ms)" + coding + "  ETA "))
        << end.out;
  }
}

TEST_F(HostsWireTest, OnASlowLinkCompressionPaysAndNothingIsSaid) {
  make_hosts(2);
  if (IsSkipped()) return;
  for (const int host : {0, 1}) network_->limit(host, "50mbit");
  ASSERT_TRUE(network_->works());
  const Ended end = run({"--compress", "topk", "--ratio-warmup", "0"});
  EXPECT_FALSE(matches(end.out, "would be faster")) << end.out;
  const Json found = summary("run").at("compression");
  EXPECT_TRUE(found.at("pays")) << found;
  EXPECT_LT(found.at("gbit_per_s"), 0.2) << found;
  EXPECT_GT(found.at("gbit_per_s"), 0.01) << found;
}

// All elements are selected, sorted and coded to save a few of their bytes, which cost next to nothing here.
TEST_F(HostsWireTest, WhereCompressionDoesNotPayTheRunSaysSoOnceAndInItsSummary) {
  make_hosts(2);
  if (IsSkipped()) return;
  const Ended end = run({"--compress", "topk", "--ratio", "1", "--ratio-warmup", "0"});
  const Json found = summary("run").at("compression");
  EXPECT_FALSE(found.at("pays")) << found;
  const std::string said = "--compress topk takes ";
  const std::size_t warning = end.out.find("warning: " + said);
  ASSERT_NE(warning, std::string::npos) << end.out;
  EXPECT_EQ(end.out.find("warning: " + said, warning + 1), std::string::npos) << "twice: " << end.out;
  EXPECT_NE(end.out.find("           " + said, warning), std::string::npos) << end.out;
  EXPECT_TRUE(matches(end.out, "--compress none would be faster here\n")) << end.out;
}

}  // namespace
}  // namespace annulus
