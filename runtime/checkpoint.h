// Checkpoints: the state of a run after one step, in a safetensors file, from which the run goes on with the
// same bits. docs/checkpoints.md describes the file.
//
// A checkpoint is one file, and it is whole or not there (runtime/durable_file.h). Every bit of it is covered
// by a checksum, so a damaged one is never loaded.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/checkpoint_plan.h"
#include "runtime/durable_file.h"
#include "runtime/safetensors.h"

namespace annulus {

// What a run keeps of itself beside its state.
struct CheckpointTexts {
  uint64_t seed = 0;
  std::string config;  // YAML, as to_yaml(TrainConfig) makes it
  std::string model;   // YAML, as to_yaml(NetworkSpec) makes it
};

// The state after a step that is committed, which nobody changes meanwhile. Arrays are laid out by the
// BucketPlan that the CheckpointPlan was made from; those that the plan does not have are null.
struct CheckpointState {
  uint32_t step = 0;
  int64_t epoch = 0;  // epochs begun: that of images(step), counted from 1; 0 at step 0
  const float* weights = nullptr;
  std::array<const float*, 2> moments{};
  const float* previous = nullptr;
  std::vector<const float*> residuals = {}, velocities = {};  // by shard
};

// "step-0000000123.safetensors": names sort as steps do.
std::string checkpoint_name(uint32_t step);

// Writes DIRECTORY/step-<step>.safetensors, in place of a file of that name if there is one, and removes
// temporary files that crashes have left there. The directory must be there. Returns the path. Throws
// FileError, after which all files are as they were (but see DurableFile::commit).
//
// Holds one tensor in memory at a time. Calls `beat` after every tensor and every DurableFile::kPortion.
std::string write_checkpoint(
    const std::string& directory, const CheckpointPlan& plan, const CheckpointTexts& texts,
    const CheckpointState& state, FileCalls& calls = posix_calls(),
    const std::function<void()>& beat = [] {});

// A checkpoint that was read and found intact. Nothing of it is copied: the file is mapped.
class Checkpoint {
 public:
  // Throws UserError, "PATH: reason", for a file that cannot be read, is damaged or is no checkpoint.
  explicit Checkpoint(const std::string& path);

  const std::string& path() const { return file_->path(); }
  int64_t bytes() const { return file_->size(); }
  uint32_t step() const { return step_; }
  int64_t epoch() const { return epoch_; }
  uint64_t seed() const { return seed_; }
  const std::string& config() const { return text("config"); }
  const std::string& model() const { return text("model"); }
  const std::string& network() const { return text("network"); }
  const std::string& weights() const { return text("weights"); }  // "xxh64=...", as the run's summary has it

  // All tensors, as they lie; the first ones are the model's.
  std::span<const TensorInfo> tensors() const { return file_->tensors(); }
  std::span<const TensorInfo> model_tensors() const { return tensors().first(model_tensors_); }
  std::span<const std::byte> bytes_of(const TensorInfo& tensor) const { return file_->bytes(tensor); }
  // Values of an F32 tensor, row-major. Throws UserError where there is none of this name.
  std::span<const float> values(const std::string& name) const;

  // Throws UserError, naming the tensor and both shapes, unless the file holds every tensor of `plan`, and no
  // other parameters or moments. Weights of the step before (previous.*) may be there without being wanted.
  void check_fits(const CheckpointPlan& plan) const;

  // Copies one tensor of a plan that fits, no count, to where its parameter begins: layout.padded_elements()
  // floats, zeros in the padding.
  void restore(const CheckpointTensor& tensor, float* parameter) const;

  // Writes the model's tensors alone to a new file, which PyTorch loads by itself. Throws UserError, also
  // where `path` is there already.
  void export_model(const std::string& path, FileCalls& calls = posix_calls()) const;

 private:
  void verify_checksum() const;
  void verify_weights() const;
  const std::string& text(const std::string& key) const;
  uint64_t number(const std::string& key, uint64_t most) const;

  std::unique_ptr<const SafetensorsFile> file_;
  uint32_t step_ = 0;
  int64_t epoch_ = 0;
  uint64_t seed_ = 0;
  size_t model_tensors_ = 0;
};

}  // namespace annulus
