#include "launcher/run_files.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "launcher/network_report.h"
#include "runtime/models.h"
#include "telemetry/error.h"
#include "tests/runtime/parameter_list.h"

namespace annulus {
namespace {

namespace fs = std::filesystem;

class RunFiles : public testing::Test {
 protected:
  RunFiles() {
    std::string name = (fs::temp_directory_path() / "run_files_test.XXXXXX").string();
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    root = name;
  }
  ~RunFiles() override { fs::remove_all(root); }

  static std::string text_of(const fs::path& path) {
    std::ifstream file(path);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  static std::string error_of(const std::string& wanted) {
    try {
      RunDirectory directory(wanted, "mlp");
    } catch (const UserError& error) {
      return error.what();
    }
    return "";
  }

  fs::path root;
};

using RunDirectoryTest = RunFiles;

TEST_F(RunDirectoryTest, is_made_with_missing_parents) {
  const std::string wanted = (root / "a/b").string();
  EXPECT_EQ(RunDirectory(wanted, "mlp").path(), wanted);
  EXPECT_TRUE(fs::is_directory(wanted));
  EXPECT_EQ(error_of(wanted), "") << "an empty one will do";
}

TEST_F(RunDirectoryTest, is_refused_while_a_run_is_under_way_in_it) {
  const std::string wanted = (root / "run").string();
  {
    const RunDirectory directory(wanted, "mlp");
    const std::string text = error_of(wanted);
    EXPECT_NE(text.find("--run-dir " + wanted + ": a run is under way in it"), std::string::npos) << text;
  }
  EXPECT_EQ(error_of(wanted), "");
}

TEST_F(RunDirectoryTest, is_named_after_date_and_model_when_nothing_is_asked_for) {
  const fs::path before = fs::current_path();
  fs::current_path(root);
  const RunDirectory first("", "mlp"), second("", "mlp");
  EXPECT_NE(first.path(), second.path());
  for (const RunDirectory* directory : {&first, &second}) {
    EXPECT_EQ(directory->path().rfind("runs/20", 0), 0U) << directory->path();
    EXPECT_NE(directory->path().find("-mlp"), std::string::npos) << directory->path();
    EXPECT_TRUE(fs::is_directory(directory->path()));
  }
  fs::current_path(before);
}

TEST_F(RunDirectoryTest, is_refused_when_it_holds_a_run) {
  fs::create_directories(root / "old");
  std::ofstream(root / "old/config.yaml") << "model: mlp\n";
  const std::string text = error_of((root / "old").string());
  EXPECT_NE(text.find("--run-dir " + (root / "old").string()), std::string::npos) << text;
  EXPECT_NE(text.find("holds a run already"), std::string::npos) << text;
}

TEST_F(RunDirectoryTest, is_refused_when_it_cannot_be_made) {
  std::ofstream(root / "file") << "x";
  for (const fs::path& path : {root / "file", root / "file/below", fs::path("/proc/annulus")}) {
    const std::string text = error_of(path.string());
    EXPECT_NE(text.find("--run-dir " + path.string() + ": cannot be written: "), std::string::npos) << text;
  }
}

TEST_F(RunDirectoryTest, is_taken_away_again_only_while_it_is_empty) {
  const RunDirectory directory((root / "run").string(), "mlp");
  std::ofstream(root / "run/file") << "x";
  directory.remove_if_empty();
  EXPECT_TRUE(fs::exists(root / "run"));
  fs::remove(root / "run/file");
  directory.remove_if_empty();
  EXPECT_FALSE(fs::exists(root / "run"));
}

Job small_job() {
  TrainConfig config;
  config.workers = 2;
  config.shards = 2;
  config.steps = 20;
  config.model = "mlp";
  const DatasetInfo dataset = describe_synthetic({1, 4, 4}, 10, 1280, 10);  // ten steps an epoch
  const NetworkPlan network = network_of({{0, 1000}, {1, 10}});
  Job job{.run = {.config = config,
                  .dataset = dataset,
                  .spec = make_network("mlp", {1, 4, 4}, 10),
                  .network = network,
                  .buckets = plan_buckets(network, 1 << 20),
                  .schedule = StepSchedule(config, dataset.train_count),
                  .algorithm = Algorithm::kDirect,
                  .domains = {},
                  .waiting = {}},
          .placement = {},
          .domains = {},
          .segment = {},
          .notes = {},
          .warnings = {}};
  job.segment = plan_segment(job.run.segment_inputs());
  return job;
}

TEST_F(RunFiles, tell_the_whole_run) {
  const Job job = small_job();
  const Segment segment(job.segment, job.run.segment_inputs(), 0, [](void*, uint64_t, int) {});
  const RunDirectory directory((root / "run").string(), "mlp");
  segment.header().data_ready.store(1);  // before that nothing is written
  Scribe scribe(directory, job, segment);
  for (uint64_t step = 1; step <= 11; ++step) {
    for (int rank = 0; rank < 2; ++rank) {
      segment.rank(rank).steps.push({.step = step,
                                     .begin_ns = 0,
                                     .end_ns = 3'500'000,
                                     .compute_ns = 2'000'000,
                                     .comm_ns = 1'000'000,
                                     .sync_ns = 500'000,
                                     .hidden_ns = 250'000,
                                     .loss_units = 64 << 24,
                                     .images = 64,
                                     .not_finite = step == 11});
    }
  }
  for (int rank = 0; rank < 2; ++rank) {
    segment.rank(rank).evaluations.push(
        {.epoch = 1, .step = 10, .loss_units = 10 << 24, .correct = 4, .images = 5});
  }
  EXPECT_EQ(scribe.close("{\"exit_code\": 0}\n"), "");

  EXPECT_EQ(text_of(root / "run/summary.json"), "{\"exit_code\": 0}\n");
  EXPECT_NE(text_of(root / "run/config.yaml").find("model: mlp"), std::string::npos);
  EXPECT_EQ(text_of(root / "run/model.yaml"), describe_network(job.run.spec, 1));
  EXPECT_EQ(nlohmann::json::parse(text_of(root / "run/plan.json")).get<NetworkPlan>().hash(),
            job.run.network.hash());
  std::istringstream lines(text_of(root / "run/metrics.jsonl"));
  std::vector<nlohmann::json> steps, evaluations;
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json object = nlohmann::json::parse(line);
    (object.contains("test_loss") ? evaluations : steps).push_back(object);
  }
  ASSERT_EQ(steps.size(), 11U);
  ASSERT_EQ(evaluations.size(), 1U);
  EXPECT_EQ(steps[0],
            nlohmann::json::parse(R"({"step": 1, "epoch": 1, "loss": 1.0, "images": 128, "step_ms": 3.5,
      "compute_ms": 2.0, "comm_ms": 1.0, "sync_ms": 0.5, "hidden_ms": 0.25, "slowest_rank": 0})"));
  EXPECT_EQ(steps[9]["epoch"], 1);
  EXPECT_EQ(steps[10]["epoch"], 2);
  EXPECT_TRUE(steps[10]["loss"].is_null()) << "JSON has no NaN";
  EXPECT_EQ(evaluations[0], nlohmann::json::parse(R"({"epoch": 1, "step": 10, "test_loss": 2.0,
      "test_accuracy": 0.8, "test_images": 10})"));
}

TEST_F(RunFiles, say_what_crossed_to_other_hosts) {
  Job job = small_job();
  job.run.hosts.count = 4;
  job.run.config.compress = "fp16";
  const Segment segment(job.segment, job.run.segment_inputs(), 0, [](void*, uint64_t, int) {});
  const RunDirectory directory((root / "run").string(), "mlp");
  segment.header().data_ready.store(1);
  Scribe scribe(directory, job, segment);
  for (int rank = 0; rank < 2; ++rank) {
    segment.rank(rank).steps.push({.step = 1,
                                   .images = 64,
                                   .wire = {.bytes = 750,
                                            .link_ns = 2'000'000,
                                            .cpu_ns = 1'500'000,
                                            .encode_ns = 500'000,
                                            .decode_ns = 250'000}});
  }
  EXPECT_EQ(scribe.close("{}\n"), "");
  const nlohmann::json step = nlohmann::json::parse(text_of(root / "run/metrics.jsonl"));
  // 1,010 elements of 4 bytes, of which a host sends 2 * 3 / 4.
  ASSERT_EQ(job.run.whole_wire_bytes(), 6060);
  EXPECT_EQ(step.at("wire_bytes"), 1500);
  EXPECT_DOUBLE_EQ(step.at("wire_saved"), 1 - 1500.0 / 6060);
  EXPECT_EQ(step.at("wire_saved_bytes"), 4560);
  EXPECT_EQ(step.at("wire_ms"), 2) << "both send at the same time";
  EXPECT_EQ(step.at("wire_cpu_ms"), 3);
  EXPECT_EQ(step.at("encode_ms"), 1);
  EXPECT_EQ(step.at("decode_ms"), 0.5);
  job.run.config.compress = "none";
  EXPECT_EQ(job.run.whole_wire_bytes(), 0);
}

TEST_F(RunFiles, repeat_a_network_of_the_users_own_from_their_copy) {
  Job job = small_job();
  job.run.config.model = "/elsewhere/mine.yaml";
  const Segment segment(job.segment, job.run.segment_inputs(), 0, [](void*, uint64_t, int) {});
  const RunDirectory directory((root / "run").string(), "mine");
  segment.header().data_ready.store(1);  // before that nothing is written
  Scribe scribe(directory, job, segment);
  EXPECT_EQ(scribe.close("{}\n"), "");
  const std::string config = text_of(root / "run/config.yaml");
  EXPECT_NE(config.find("model: " + fs::absolute(root / "run/model.yaml").string() + "\n"), std::string::npos)
      << config;
}

TEST_F(RunFiles, of_a_run_whose_data_was_refused_do_not_exist) {
  const Job job = small_job();
  const Segment segment(job.segment, job.run.segment_inputs(), 0, [](void*, uint64_t, int) {});
  const RunDirectory directory((root / "run").string(), "mlp");
  Scribe scribe(directory, job, segment);
  EXPECT_EQ(scribe.close("{\"exit_code\": 2}\n"), "");
  EXPECT_TRUE(fs::is_empty(root / "run"));
}

TEST_F(RunFiles, that_cannot_be_written_are_reported_and_end_nothing) {
  const Job job = small_job();
  const Segment segment(job.segment, job.run.segment_inputs(), 0, [](void*, uint64_t, int) {});
  const RunDirectory directory((root / "run").string(), "mlp");
  fs::create_directory(root / "run/config.yaml");  // in the way
  std::signal(SIGPIPE, SIG_IGN);                   // as Terminal does: the scribe may be gone already
  segment.header().data_ready.store(1);            // before that nothing is written
  Scribe scribe(directory, job, segment);
  const std::string trouble = scribe.close("{}\n");
  EXPECT_NE(trouble.find("config.yaml"), std::string::npos) << trouble;
}

}  // namespace
}  // namespace annulus
