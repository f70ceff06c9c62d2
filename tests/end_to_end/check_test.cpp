// `annulus check`, run as a user runs it: every algorithm with real worker processes.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tests/end_to_end/command.h"

namespace annulus {
namespace {

using Words = std::vector<std::string>;

// The check of a small problem, which must pass.
nlohmann::json passes(const std::string& algorithm, const Words& words) {
  SCOPED_TRACE(algorithm + " " + ::testing::PrintToString(words));
  const Ended end =
      run_annulus(with(with({"check", algorithm, "--json"}, {"--steps", "20", "--dim", "50000"}), words));
  EXPECT_EQ(end.code, 0) << end.out << end.err;
  EXPECT_TRUE(end.left.empty());
  EXPECT_EQ(std::count(end.out.begin(), end.out.end(), '\n'), 1) << end.out;
  const nlohmann::json json = nlohmann::json::parse(end.out, nullptr, false);
  if (!json.is_object()) {
    ADD_FAILURE() << end.out;
    return {{"exchanged", ""}, {"serial", ""}, {"ring_descriptors", 0}};
  }
  EXPECT_EQ(json.at("passed"), true);
  EXPECT_EQ(json.at("serial"), json.at("exchanged"));
  EXPECT_EQ(json.at("algorithm"), algorithm);
  return json;
}

void expect_refused(const Words& words, const Words& parts) {
  Words command = {"check"};
  command.insert(command.end(), words.begin(), words.end());
  const Ended end = run_annulus(command);
  EXPECT_EQ(end.code, 2) << end.out << end.err;
  EXPECT_EQ(end.out, "");
  for (const std::string& part : parts) EXPECT_NE(end.err.find(part), std::string::npos) << end.err;
  EXPECT_TRUE(end.left.empty());
}

TEST(Check, DirectHasTheSameBitsOnOneToFiveWorkers) {
  const nlohmann::json one = passes("direct", {"--workers", "1", "--shards", "10"});
  EXPECT_EQ(one.at("ring_descriptors"), 0);
  for (const char* workers : {"2", "3", "4", "5"}) {
    const nlohmann::json many = passes("direct", {"--workers", workers, "--shards", "10"});
    EXPECT_EQ(many.at("exchanged"), one.at("exchanged")) << workers;
    EXPECT_GT(many.at("ring_descriptors"), 0);
  }
}

TEST(Check, RingAddsInItsOwnOrderOnOneToFiveWorkers) {
  for (const char* workers : {"1", "2", "3", "4", "5"}) {
    const std::string ring = passes("ring", {"--workers", workers, "--shards", "13"}).at("exchanged");
    EXPECT_EQ(passes("ring", {"--workers", workers, "--shards", "13"}).at("exchanged"), ring);
  }
  const std::string two = passes("ring", {"--workers", "2"}).at("exchanged");
  EXPECT_EQ(passes("direct", {"--workers", "2"}).at("exchanged"), two);
}

TEST(Check, HierarchicalHasTheBitsOfDirectInPretendedDomains) {
  const std::vector<Words> ways = {{"--workers", "1"},
                                   {"--workers", "2", "--domains", "2"},
                                   {"--workers", "3", "--domains", "2"},
                                   {"--workers", "4", "--domains", "2"},
                                   {"--workers", "4", "--domains", "4"},
                                   {"--workers", "5", "--domains", "4"}};
  for (const Words& way : ways) {
    const nlohmann::json json = passes("hierarchical", way);
    EXPECT_EQ(passes("direct", {"--workers", way[1]}).at("exchanged"), json.at("exchanged"));
  }
}

TEST(Check, HasTheSameBitsOverTcpAsInTheSegment) {
  for (const char* workers : {"1", "2", "5"}) {
    const nlohmann::json direct = passes("direct", {"--workers", workers, "--transport", "tcp"});
    EXPECT_EQ(passes("direct", {"--workers", workers}).at("exchanged"), direct.at("exchanged")) << workers;
    passes("ring", {"--workers", workers, "--transport", "tcp"});
  }
  passes("hierarchical", {"--workers", "4", "--domains", "2", "--transport", "tcp"});
  expect_refused({"direct", "--transport", "tcp", "--workers", "2", "--shards", "3"},
                 {"--shards 3", "one shard"});
  expect_refused({"direct", "--transport", "pigeon"}, {"pigeon", "memory, tcp"});
}

TEST(Check, EndsWithFourTimesMoreWorkersThanCores) {
  CommandOptions one_core;
  one_core.cpus = {0};
  const Ended end = run_annulus({"check", "ring", "--workers", "4", "--steps", "20"}, one_core);
  EXPECT_EQ(end.code, 0) << end.err;
  EXPECT_NE(end.out.find("warning: --workers 4: 4 threads share 1 usable core"), std::string::npos)
      << end.out;
  EXPECT_NE(end.out.find("\nPASS\n"), std::string::npos) << end.out;
}

TEST(Check, TakesOddSizes) {
  for (const char* dim : {"1", "4096", "4097", "20481"}) passes("direct", {"--workers", "3", "--dim", dim});
  passes("ring", {"--workers", "3", "--dim", "1"});
  passes("hierarchical", {"--workers", "4", "--domains", "4", "--dim", "1", "--steps", "1"});
}

TEST(Check, PrintsATableForPeople) {
  const Ended end = run_annulus({"check", "direct", "--workers", "2", "--steps", "5"});
  for (const char* word :
       {"algorithm", "workers", "steps", "rings", "time", "distance", "serial", "exchanged"}) {
    EXPECT_NE(("\n" + end.out).find("\n" + std::string(word)), std::string::npos) << end.out;
  }
}

TEST(Check, IsListedAndExplained) {
  EXPECT_NE(run_annulus({"--help"}).out.find("\n  annulus check ALGORITHM "), std::string::npos);
  const Ended help = run_annulus({"check", "--help"});
  EXPECT_EQ(help.code, 0);
  for (const char* flag : {"workers", "shards", "steps", "dim", "domains", "json"}) {
    EXPECT_NE(help.out.find(std::string("\n  --") + flag), std::string::npos) << flag;
  }
}

TEST(Check, RefusesWhatCannotBeChecked) {
  expect_refused({}, {"no algorithm", "direct, ring or hierarchical"});
  expect_refused({"hierachical"}, {"hierachical", "unknown algorithm", "did you mean hierarchical?"});
  expect_refused({"direct", "--workers", "0"}, {"--workers 0", "out of range"});
  expect_refused({"direct", "--workers", "300"}, {"--workers 300", "out of range"});
  expect_refused({"direct", "--dim", "0"}, {"--dim 0", "out of range"});
  expect_refused({"direct", "--workers", "4", "--shards", "3"}, {"--shards 3", "4 workers"});
  expect_refused({"ring", "--domains", "2"}, {"--domains 2", "leave it out"});
  expect_refused({"hierarchical", "--workers", "2", "--domains", "4"}, {"--domains 4", "2 workers"});
  expect_refused({"hierarchical", "--workers", "4", "--domains", "3"}, {"--domains 3", "halving needs"});
}

TEST(Check, NamesARankThatIsKilled) {
  Command command({"check", "direct", "--workers", "2", "--steps", "1000000"});
  command.wait_until("both ranks", [&] { return command.process("annulus:1") != 0; });
  command.signal("annulus:1", SIGKILL);
  const Ended end = command.wait();
  EXPECT_EQ(end.code, 1) << end.out;
  EXPECT_NE(end.err.find("rank 1 (pid "), std::string::npos) << end.err;
  EXPECT_NE(end.err.find("killed by signal 9"), std::string::npos) << end.err;
  EXPECT_TRUE(end.left.empty());
}

TEST(Check, LeavesNothingWhenItIsKilled) {
  Command command({"check", "direct", "--workers", "2", "--steps", "1000000"});
  command.wait_until("both ranks", [&] { return command.process("annulus:1") != 0; });
  kill(command.pid(), SIGKILL);
  command.wait();
  expect_no_process_left();
}

}  // namespace
}  // namespace annulus
