#include "runtime/checkpoint.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <charconv>
#include <cstring>
#include <filesystem>
#include <limits>
#include <set>
#include <string_view>

#include "runtime/checkpoint_directory.h"
#include "runtime/checksum.h"
#include "telemetry/check.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFormat = "1";

// The checksum stands first in the header, so its place is the same in every file, and only its own digits,
// taken as zeros, need to be left out of what it covers.
constexpr std::string_view kBeforeDigits = "{\"__metadata__\":{\"checksum\":\"";
constexpr int64_t kDigitsAt = 8 + static_cast<int64_t>(kBeforeDigits.size());
constexpr size_t kDigits = 16;

class Hash {
 public:
  Hash() : state_(XXH64_createState(), XXH64_freeState) { XXH64_reset(state_.get(), 0); }
  void add(const void* bytes, size_t count) { XXH64_update(state_.get(), bytes, count); }
  uint64_t value() const { return XXH64_digest(state_.get()); }

 private:
  std::unique_ptr<XXH64_state_t, decltype(&XXH64_freeState)> state_;
};

std::string digits_of(uint64_t hash) { return fmt::format("{:016x}", hash); }

const float* array_of(const CheckpointState& state, const CheckpointTensor& tensor) {
  switch (tensor.array) {
    case StateArray::kCount:
      return nullptr;
    case StateArray::kWeights:
      return state.weights;
    case StateArray::kFirstMoment:
      return state.moments[0];
    case StateArray::kSecondMoment:
      return state.moments[1];
    case StateArray::kPrevious:
      return state.previous;
    case StateArray::kResidual:
      return state.residuals.at(tensor.shard);
    case StateArray::kVelocity:
      return state.velocities.at(tensor.shard);
  }
  return nullptr;
}

// The tensor's bytes as the file has them, in `buffer`.
std::span<const std::byte> plain_bytes(const CheckpointTensor& tensor, const CheckpointState& state,
                                       std::vector<std::byte>& buffer) {
  buffer.resize(static_cast<size_t>(tensor.info.end - tensor.info.begin));
  if (tensor.array == StateArray::kCount) {
    const int64_t step = state.step;
    std::memcpy(buffer.data(), &step, sizeof step);
    return buffer;
  }
  const float* const array = array_of(state, tensor);
  CHECK(array != nullptr, "{} has no array", tensor.info.name);
  // The buffer comes from operator new, which aligns it for any type.
  to_plain(tensor.layout, array + tensor.offset, reinterpret_cast<float*>(buffer.data()));
  return buffer;
}

// weights_checksum (runtime/checksum.h), of the order and layout that the file has.
uint64_t hash_weights(const CheckpointPlan& plan, const CheckpointState& state,
                      const std::function<void()>& beat) {
  Hash hash;
  std::vector<std::byte> buffer;
  for (const CheckpointTensor& tensor : plan.tensors) {
    if (tensor.array != StateArray::kWeights) continue;
    const std::span<const std::byte> bytes = plain_bytes(tensor, state, buffer);
    hash.add(bytes.data(), bytes.size());
    beat();
  }
  return hash.value();
}

Metadata metadata_of(const CheckpointPlan& plan, const CheckpointTexts& texts, const CheckpointState& state,
                     uint64_t weights) {
  return {{"checksum", std::string(kDigits, '0')},
          {"annulus_checkpoint", kFormat},
          {"network", plan.network},
          {"step", std::to_string(state.step)},
          {"epoch", std::to_string(state.epoch)},
          {"seed", std::to_string(texts.seed)},
          {"weights", format_checksum(weights)},
          {"model_tensors", std::to_string(plan.model_tensors)},
          {"config", texts.config},
          {"model", texts.model}};
}

}  // namespace

std::string checkpoint_name(uint32_t step) { return fmt::format("step-{:010}.safetensors", step); }

std::string write_checkpoint(const std::string& directory, const CheckpointPlan& plan,
                             const CheckpointTexts& texts, const CheckpointState& state, FileCalls& calls,
                             const std::function<void()>& beat) {
  remove_temporaries(directory, is_checkpoint_name, calls);
  std::vector<TensorInfo> infos;
  for (const CheckpointTensor& tensor : plan.tensors) infos.push_back(tensor.info);
  const std::string head =
      safetensors_head(metadata_of(plan, texts, state, hash_weights(plan, state, beat)), infos);
  CHECK(head.find(kBeforeDigits) == 8, "the header does not begin with the checksum");

  const std::string path = (fs::path(directory) / checkpoint_name(state.step)).string();
  DurableFile file(path, calls, beat);
  Hash hash;
  const auto append = [&](std::span<const std::byte> bytes) {
    hash.add(bytes.data(), bytes.size());
    file.write(bytes);
  };
  append(std::as_bytes(std::span(head)));
  std::vector<std::byte> buffer;
  for (const CheckpointTensor& tensor : plan.tensors) {
    append(plain_bytes(tensor, state, buffer));
    beat();
  }
  const std::string digits = digits_of(hash.value());
  file.patch(kDigitsAt, std::as_bytes(std::span(digits)));
  file.commit();
  return path;
}

Checkpoint::Checkpoint(const std::string& path) : file_(std::make_unique<const SafetensorsFile>(path)) {
  verify_checksum();
  if (text("annulus_checkpoint") != kFormat) {
    throw UserError::format(
        "{}: a checkpoint of format {}, and this build reads format {}; take the one that "
        "wrote it",
        path, text("annulus_checkpoint"), kFormat);
  }
  step_ = static_cast<uint32_t>(number("step", std::numeric_limits<uint32_t>::max()));
  epoch_ = static_cast<int64_t>(number("epoch", std::numeric_limits<int64_t>::max()));
  seed_ = number("seed", std::numeric_limits<uint64_t>::max());
  model_tensors_ = number("model_tensors", tensors().size());
  for (const char* key : {"config", "model", "network"}) (void)text(key);
  verify_weights();
}

void Checkpoint::verify_checksum() const {
  Hash hash;
  std::string head, digits;
  file_->read_all([&](int64_t offset, std::span<const uint8_t> bytes) {
    if (offset > 0) return hash.add(bytes.data(), bytes.size());
    std::string first(bytes.begin(), bytes.end());
    if (first.size() >= kDigitsAt + kDigits) {
      head = first.substr(8, kBeforeDigits.size());
      digits = first.substr(kDigitsAt, kDigits);
      first.replace(kDigitsAt, kDigits, kDigits, '0');
    }
    hash.add(first.data(), first.size());
  });
  if (head != kBeforeDigits) {
    throw UserError::format(
        "{}: its header does not begin with a checksum; it is damaged, or was not written by annulus train",
        path());
  }
  if (digits != digits_of(hash.value())) {
    throw UserError::format("{}: it is damaged: its checksum is {}, that of its content {}", path(), digits,
                            digits_of(hash.value()));
  }
}

// The weights lie one behind the other, in the order in which weights_checksum reads them.
void Checkpoint::verify_weights() const {
  Hash hash;
  for (const TensorInfo& tensor : model_tensors()) {
    if (tensor.type != TensorType::kF32) continue;
    const std::span<const std::byte> bytes = bytes_of(tensor);
    hash.add(bytes.data(), bytes.size());
  }
  if (weights() != format_checksum(hash.value())) {
    throw UserError::format("{}: its weights are {}, not {}; whoever wrote it made a mistake", path(),
                            format_checksum(hash.value()), weights());
  }
}

const std::string& Checkpoint::text(const std::string& key) const {
  const auto found = file_->metadata().find(key);
  if (found == file_->metadata().end()) {
    throw UserError::format("{}: its header has no {}; it was not written by annulus train", path(), key);
  }
  return found->second;
}

uint64_t Checkpoint::number(const std::string& key, uint64_t most) const {
  const std::string& digits = text(key);
  uint64_t value = 0;
  const char* const end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, value);
  if (error != std::errc() || stop != end || value > most) {
    throw UserError::format("{}: its {} is {}, no whole number up to {}", path(), key, digits, most);
  }
  return value;
}

std::span<const float> Checkpoint::values(const std::string& name) const {
  const TensorInfo* const tensor = file_->find(name);
  if (tensor == nullptr || tensor->type != TensorType::kF32) {
    throw UserError::format("{}: it holds no tensor {} of type F32", path(), name);
  }
  return file_->floats(*tensor);
}

void Checkpoint::check_fits(const CheckpointPlan& plan) const {
  const std::string remedy =
      fmt::format("it is of network {}; give that run's --config, or another checkpoint", network());
  std::set<std::string_view> wanted;
  for (const CheckpointTensor& tensor : plan.tensors) {
    const TensorInfo& info = tensor.info;
    wanted.insert(info.name);
    const TensorInfo* const found = file_->find(info.name);
    if (found == nullptr) {
      throw UserError::format("{}: it has no tensor {}, which is {} in this run of {}; {}", path(), info.name,
                              text_of_shape(info.shape), plan.network, remedy);
    }
    if (found->shape != info.shape || found->type != info.type) {
      throw UserError::format("{}: tensor {} is {} {} in it, and {} {} in this run of {}; {}", path(),
                              info.name, name_of(found->type), text_of_shape(found->shape),
                              name_of(info.type), text_of_shape(info.shape), plan.network, remedy);
    }
  }
  for (size_t i = 0; i < tensors().size(); ++i) {
    const TensorInfo& tensor = tensors()[i];
    if (wanted.contains(tensor.name)) continue;
    if (i >= model_tensors_ && tensor.name.starts_with("previous.")) continue;
    throw UserError::format("{}: its tensor {} {} is not part of this run of {}; {}", path(), tensor.name,
                            text_of_shape(tensor.shape), plan.network, remedy);
  }
}

void Checkpoint::restore(const CheckpointTensor& tensor, float* parameter) const {
  CHECK(tensor.array != StateArray::kCount);
  from_plain(tensor.layout, values(tensor.info.name).data(), parameter);
}

void Checkpoint::export_model(const std::string& path, FileCalls& calls) const {
  if (path_exists(path))
    throw UserError::format("{}: it is there already; give another name, or remove it", path);
  std::vector<TensorInfo> tensors(model_tensors().begin(), model_tensors().end());
  place_tensors(tensors);
  // Hugging Face's loaders want to know the framework that the file is for.
  const Metadata metadata = {
      {"format", "pt"}, {"network", network()}, {"step", std::to_string(step())}, {"weights", weights()}};
  DurableFile file(path, calls);
  const std::string head = safetensors_head(metadata, tensors);
  file.write(std::as_bytes(std::span(head)));
  for (const TensorInfo& tensor : model_tensors()) file.write(bytes_of(tensor));
  file.commit();
}

}  // namespace annulus
