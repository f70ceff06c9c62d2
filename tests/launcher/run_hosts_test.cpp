#include "launcher/run_hosts.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "launcher/options.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

using Words = std::vector<std::string>;

class RunHostsTest : public ::testing::Test {
 protected:
  RunHostsTest() {
    directory_ = testing::TempDir() + "annulus_run_hosts_" + std::to_string(getpid()) + "/";
    std::filesystem::create_directories(directory_);
    write("hosts", "a slots=2 addr=10.0.0.1\nb slots=2 addr=10.0.0.2\nc slots=2\n");
    write("one", "a slots=2\n");
    write("plain", "a\nb\n");
    write("secret", std::string(64, '7'));
    chmod((directory_ + "secret").c_str(), 0600);
  }
  ~RunHostsTest() override { std::filesystem::remove_all(directory_); }

  void write(const std::string& name, const std::string& text) { std::ofstream(directory_ + name) << text; }

  TrainConfig config(Words words) {
    words.insert(words.begin(), "train");
    std::vector<const char*> argv;
    for (std::string& word : words) {
      if (word.starts_with("/")) word = directory_ + word.substr(1);
      argv.push_back(word.c_str());
    }
    return parse_train(static_cast<int>(argv.size()), argv.data());
  }
  RunHosts found(const Words& words, bool slurm = false) {
    return find_hosts(config(words), [slurm](const std::string& name) -> std::optional<std::string> {
      if (!slurm) return {};
      if (name == "SLURM_NNODES") return "2";
      if (name == "SLURM_JOB_NODELIST") return "n[1-2]";
      if (name == "SLURM_PROCID" || name == "SLURM_NODEID") return "1";
      return {};
    });
  }
  std::string refused(const Words& words, bool slurm = false) {
    try {
      on_hosts(config(words), found(words, slurm));
    } catch (const UserError& error) {
      std::string text = error.what();
      for (size_t at; (at = text.find(directory_)) != text.npos;) text.replace(at, directory_.size(), "/");
      return text;
    }
    return "(accepted)";
  }

  std::string directory_;
};

TEST_F(RunHostsTest, WithoutAnyOptionItIsThisBox) {
  const RunHosts hosts = found({});
  EXPECT_FALSE(hosts.several());
  EXPECT_FALSE(hosts.secret);
  const TrainConfig config = on_hosts(this->config({"--workers", "3"}), hosts);
  EXPECT_EQ(config.host_count, 1);
  EXPECT_EQ(config.workers, 3);
}

TEST_F(RunHostsTest, AFileAloneMeansSshFromTheFirstHost) {
  const RunHosts hosts = found({"--hosts", "/hosts", "--remote-path", "/opt/annulus"});
  EXPECT_TRUE(hosts.several());
  EXPECT_TRUE(hosts.starts_others);
  EXPECT_EQ(hosts.node, 0);
  EXPECT_EQ(hosts.port, 0);
  ASSERT_TRUE(hosts.secret);
  const TrainConfig config = on_hosts(this->config({"--accumulate", "2"}), hosts);
  EXPECT_EQ(config.host_count, 3);
  EXPECT_EQ(config.workers, 2);
  EXPECT_EQ(resolved(config, 2).shards, 12);  // the whole batch's
  EXPECT_EQ(found({"--hosts", "/hosts", "--port", "4711"}).port, 4711);
}

TEST_F(RunHostsTest, AFileWithOneHostIsThisBoxWithItsSlots) {
  const RunHosts hosts = found({"--hosts", "/one"});
  EXPECT_FALSE(hosts.several());
  EXPECT_FALSE(hosts.starts_others);
  EXPECT_EQ(on_hosts(config({}), hosts).workers, 2);
}

TEST_F(RunHostsTest, ByHandEachHostHasANumberAndTheSecret) {
  const Words words = {"--hosts", "/hosts", "--node", "2", "--secret-file", "/secret"};
  const RunHosts hosts = found(words);
  EXPECT_FALSE(hosts.starts_others);
  EXPECT_EQ(hosts.node, 2);
  ASSERT_TRUE(hosts.secret);
  EXPECT_EQ(hosts.port, port_of(*hosts.secret));
  EXPECT_GE(hosts.port, 20'000);
  EXPECT_LT(hosts.port, 30'000);
  EXPECT_NE(port_of(new_secret()), port_of(new_secret()));  // once in 10,000 times
}

TEST_F(RunHostsTest, InSlurmEachTaskIsAHost) {
  const RunHosts hosts = found({"--secret-file", "/secret", "--port", "4711"}, true);
  EXPECT_EQ(hosts.list.count(), 2);
  EXPECT_EQ(hosts.node, 1);
  EXPECT_EQ(hosts.port, 4711);
  const std::string without = refused({}, true);
  EXPECT_NE(without.find("srun has started this on 2 nodes, and there is no --secret-file"), without.npos)
      << without;
  EXPECT_NE(refused({"--secret-file", "/secret", "--remote-path", "/x"}, true).find("srun has started"),
            std::string::npos);
  // A file goes before what Slurm says.
  EXPECT_EQ(found({"--hosts", "/hosts", "--node", "0", "--secret-file", "/secret"}, true).list.count(), 3);
}

TEST_F(RunHostsTest, WhatDoesNotGoTogetherIsRefusedWithARemedy) {
  EXPECT_EQ(refused({"--node", "1"}),
            "--node 1: it is for a run on several hosts; give --hosts FILE, or leave it out");
  for (const char* const option : {"--secret-file", "--remote-path"}) {
    EXPECT_EQ(
        refused({option, "x"}),
        std::string(option) + " x: it is for a run on several hosts; give --hosts FILE, or leave it out");
  }
  EXPECT_EQ(refused({"--port", "5"}),
            "--port 5: it is for a run on several hosts; give --hosts FILE, or leave it out");
  EXPECT_EQ(refused({"--hosts", "/one", "--remote-path", "x"}),
            "--remote-path x: it is for a run on several hosts; /one has one; leave it out");
  EXPECT_EQ(refused({"--hosts", "/"}), "--hosts /: it is a directory; give a file with a host a line");
  EXPECT_EQ(refused({"--hosts", "/hosts", "--node", "3", "--secret-file", "/secret"}),
            "--node 3: /hosts has 3 hosts; give 0 to 2");
  const std::string secret = refused({"--hosts", "/hosts", "--node", "1"});
  EXPECT_NE(secret.find("--node 1: there is no --secret-file"), secret.npos) << secret;
  EXPECT_NE(secret.find("openssl rand"), secret.npos) << secret;
  EXPECT_EQ(
      refused({"--hosts", "/hosts", "--secret-file", "/secret"}),
      "--secret-file /secret: without --node the other hosts are started by ssh, which hands them a secret "
      "of its own; leave it out, or give --node K on each host");
  EXPECT_EQ(refused({"--hosts", "/hosts", "--node", "1", "--secret-file", "/secret", "--remote-path", "x"}),
            "--remote-path x: --node says that every host is started by hand, and nothing is started by ssh; "
            "leave it "
            "out");
  EXPECT_EQ(refused({"--hosts", "/hosts", "--workers", "4"}),
            "--workers 4: /hosts says slots=2; leave one of them out");
  EXPECT_NE(refused({"--hosts", "/hosts", "--node", "1", "--secret-file", "/none"}), "(accepted)");
  EXPECT_NE(
      refused({"--hosts", "-"}).find("--hosts -: no --node; it is how a host is started by the first one"),
      std::string::npos);
}

TEST_F(RunHostsTest, SeveralHostsHaveRefusalsOfTheirOwn) {
  const auto refused = [&](const Words& words) {
    try {
      check_combinations(on_hosts(config(words), found({"--hosts", "/plain"})), 2);
    } catch (const UserError& error) {
      return std::string(error.what());
    }
    return std::string("(accepted)");
  };
  EXPECT_EQ(refused({}), "(accepted)");
  EXPECT_NE(refused({"--staleness", "1"}).find("--staleness 1: on several hosts"), std::string::npos);
  EXPECT_NE(refused({"--compress", "topk", "--compress-where", "all"}).find("give --compress-where bridge"),
            std::string::npos);
  EXPECT_EQ(refused({"--compress", "topk"}), "(accepted)");
  EXPECT_EQ(
      refused({"--checkpoint-minutes", "5"}),
      "--checkpoint-minutes 5: on several hosts checkpoints must be of the same step, and clocks do not "
      "choose one; give --checkpoint-every or --checkpoint-epochs");
  EXPECT_EQ(refused({"--shards", "3"}),
            "--shards 3: fewer than the 4 workers (2 on each of 2 hosts); give at least --shards 4, or fewer "
            "workers or hosts");
  EXPECT_EQ(refused({"--batch-size", "3"}),
            "--batch-size 3: smaller than the 4 shards of 2 workers on each of 2 hosts; give at least "
            "--batch-size 4, or fewer of them");
}

TEST_F(RunHostsTest, WhereARunIsIsNotInItsSavedConfiguration) {
  TrainConfig config = on_hosts(this->config({"--hosts", "/hosts", "--port", "5", "--remote-path", "x"}),
                                found({"--hosts", "/hosts"}));
  const std::string yaml = to_yaml(config);
  for (const char* const key : {"hosts", "node", "secret", "port", "remote"}) {
    EXPECT_EQ(yaml.find("\n" + std::string(key)), yaml.npos) << yaml;
  }
}

TEST(RunHosts, AHostWhoseNameMeansItselfAloneIsRefused) {
  const auto refused = [](const std::string& host, const std::string& address) {
    try {
      check_reachable({"trainer@big", host}, resolve(address, 0));
    } catch (const UserError& error) {
      return std::string(error.what());
    }
    return std::string("(accepted)");
  };
  EXPECT_EQ(
      refused("big", "127.0.1.1"),
      "\"big\" is 127.0.1.1 here, where no other host can come (/etc/hosts may say so). Give the address "
      "that the others know, as addr=, or change /etc/hosts");
  EXPECT_NE(refused("big", "::1"), "(accepted)");
  EXPECT_NE(refused("big", "::ffff:127.0.0.1"), "(accepted)");
  EXPECT_EQ(refused("127.0.0.1", "127.0.0.1"), "(accepted)");
  EXPECT_EQ(refused("localhost", "127.0.0.1"), "(accepted)");
  EXPECT_EQ(refused("big", "10.0.0.1"), "(accepted)");
  EXPECT_EQ(refused("big", "128.0.0.1"), "(accepted)");
}

TEST_F(RunHostsTest, AnOrderComesBackAsItWas) {
  const HostOrder order{.list = found({"--hosts", "/hosts"}).list,
                        .secret = new_secret(),
                        .port = 40'000,
                        .config = "model: mlp\n",
                        .run_dir = "a \"b\"",
                        .resume = "latest"};
  const std::string text = to_json(order);
  EXPECT_EQ(text.find('\n'), text.npos);
  const HostOrder back = host_order(text);
  EXPECT_EQ(to_json(back), text);
  EXPECT_EQ(back.list.hosts[1].address, "10.0.0.2");
  EXPECT_EQ(back.run_dir, order.run_dir);
  for (const char* const wrong : {"", "x", "[]", "{}", "{\"secret\":\"12\"}"}) {
    EXPECT_THROW(host_order(wrong), UserError) << wrong;
  }
}

TEST(HostOrder, RefusesNamesThatCannotBeSent) {
  const auto refusal = [](const std::function<void(HostOrder&)>& change) -> std::string {
    HostOrder order{.list = {.hosts = {{"a", "10.0.0.1", 1}}, .source = "hosts"},
                    .secret = new_secret(),
                    .port = 1,
                    .config = "model: mlp\nseed: 1\n",
                    .run_dir = "r\u00fcn",
                    .resume = ""};
    change(order);
    try {
      (void)to_json(order);
    } catch (const UserError& error) {
      return error.what();
    }
    return "(accepted)";
  };
  const std::string why = ": it is not UTF-8, and cannot be sent to the other hosts; give it another name";
  EXPECT_EQ(refusal([](HostOrder&) {}), "(accepted)");
  EXPECT_EQ(refusal([](HostOrder& order) { order.run_dir = "r\xfcn"; }), "--run-dir r\xfcn" + why);
  EXPECT_EQ(refusal([](HostOrder& order) { order.resume = "\xff"; }), "--resume \xff" + why);
  EXPECT_EQ(refusal([](HostOrder& order) { order.config += "data: /d\xff\n"; }),
            "the configuration's data: /d\xff" + why);
}

}  // namespace
}  // namespace annulus
