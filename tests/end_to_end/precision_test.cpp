// What --precision bf16 comes to on processors that have it, emulate it, or lack it. oneDNN is told to use
// less than the processor has.
#include <gtest/gtest.h>

#include "tests/end_to_end/command.h"

namespace annulus {
namespace {

using Words = std::vector<std::string>;

const Words kRun = {"train", "--dataset",   "synthetic", "--model",   "simplecnn", "--workers",
                    "1",     "--steps",     "3",         "--run-dir", "run",       "--batch-size",
                    "32",    "--precision", "bf16"};

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

CommandOptions limited_to(const ScratchDirectory& scratch, const char* isa) {
  CommandOptions options = scratch.here();
  options.environment = {std::string("ONEDNN_MAX_CPU_ISA=") + isa};
  return options;
}

TEST(Precision, WithoutAvx512Bf16IsRefusedByEveryCommandThatPlans) {
  const Words commands[] = {kRun,
                            {"topo", "--dataset", "synthetic", "--precision", "bf16"},
                            {"bench", "train", "--precision", "bf16"},
                            {"bench", "layers", "--precision", "bf16"}};
  for (const Words& command : commands) {
    const ScratchDirectory scratch;
    const Ended end = run_annulus(command, limited_to(scratch, "AVX2"));
    EXPECT_EQ(end.code, 2) << end.out << end.err;
    EXPECT_EQ(end.out, "");
    for (const char* part : {"annulus: --precision bf16: ", "AVX-512", "uses avx2", "--precision fp32",
                             "--precision-fallback on"}) {
      EXPECT_TRUE(contains(end.err, part)) << part << " is not in " << end.err;
    }
    EXPECT_TRUE(scratch.content().empty());
  }
}

TEST(Precision, FallsBackToFp32WhereAskedToAndRecordsWhatWasUsed) {
  const ScratchDirectory scratch;
  const CommandOptions avx2 = limited_to(scratch, "AVX2");
  const Ended end = run_annulus(with(kRun, {"--precision-fallback", "on"}), avx2);
  EXPECT_EQ(end.code, 0) << end.err;
  EXPECT_TRUE(contains(end.out, "warning: --precision bf16: ")) << end.out;
  EXPECT_TRUE(contains(end.out, "training in fp32")) << end.out;
  EXPECT_TRUE(contains(read_file(scratch / "run/config.yaml"), "precision: fp32\n"));
  const Ended fp32 = run_annulus(with(kRun, {"--precision", "fp32", "--run-dir", "fp32"}), avx2);
  EXPECT_EQ(fp32.weights(), end.weights());
  EXPECT_FALSE(contains(fp32.out, "warning: --precision")) << fp32.out;
}

TEST(Precision, EmulatedBf16IsWarnedOfAndNativeIsNot) {
  if (lacks_bf16()) GTEST_SKIP() << "SKIPPED: this processor has no AVX-512";
  const ScratchDirectory scratch;
  const Ended emulated = run_annulus(kRun, limited_to(scratch, "AVX512_CORE"));
  EXPECT_EQ(emulated.code, 0) << emulated.err;
  EXPECT_TRUE(contains(emulated.out, "warning: --precision bf16: ")) << emulated.out;
  EXPECT_TRUE(contains(emulated.out, "emulates")) << emulated.out;
  EXPECT_TRUE(contains(read_file(scratch / "run/config.yaml"), "precision: bf16\n"));
  const Ended fallen = run_annulus(with(kRun, {"--precision-fallback", "on", "--run-dir", "fallen"}),
                                   limited_to(scratch, "AVX512_CORE"));
  EXPECT_TRUE(contains(fallen.out, "training in fp32")) << fallen.out;
  EXPECT_TRUE(contains(read_file(scratch / "fallen/config.yaml"), "precision: fp32\n"));
  const Ended native = run_annulus(with(kRun, {"--run-dir", "native"}), scratch.here());
  EXPECT_EQ(native.code, 0) << native.err;
  const bool has_bf16 = contains(run_annulus({"--version"}).out, "avx512_bf16");
  EXPECT_EQ(contains(native.out, "warning: --precision"), !has_bf16) << native.out;
}

// Bits of bf16 are those of its rounding, not of fp32.
TEST(Precision, Bf16HasOtherWeightsThanFp32) {
  if (lacks_bf16()) GTEST_SKIP() << "SKIPPED: this processor has no AVX-512";
  const ScratchDirectory scratch;
  const Ended bf16 = run_annulus(kRun, scratch.here());
  const Ended fp32 = run_annulus(with(kRun, {"--precision", "fp32", "--run-dir", "fp32"}), scratch.here());
  EXPECT_EQ(bf16.code, 0) << bf16.err;
  EXPECT_EQ(fp32.code, 0) << fp32.err;
  EXPECT_NE(bf16.weights(), fp32.weights());
}

}  // namespace
}  // namespace annulus
