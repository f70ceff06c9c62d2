#include "kernels/network.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/arena_plan.h"
#include "kernels/convolution_layer.h"
#include "kernels/dnnl_compat.h"
#include "kernels/layer.h"
#include "kernels/linear_layer.h"
#include "kernels/max_pool_layer.h"
#include "kernels/parallel_for.h"
#include "telemetry/check.h"
#include "telemetry/error.h"

namespace annulus {
namespace {

void check_spec(const NetworkSpec& spec, int64_t batch, int threads) {
  CHECK(batch >= 1 && threads >= 1, "batch {}, threads {}", batch, threads);
  if (spec.layers.empty()) throw UserError::format("network {} has no layers", spec.name);
  const LayerSpec& last = spec.layers.back();
  if (last.kind != LayerKind::kLinear || last.out != spec.classes) {
    throw UserError::format("network {} ends with layer {}; it must end with a linear layer of {} outputs",
                            spec.name, last.name, spec.classes);
  }
  ImageShape shape = spec.input;
  for (const LayerSpec& layer : spec.layers) shape = output_shape(layer, shape);
}

}  // namespace

class Network::Impl {
 public:
  Impl(const NetworkSpec& spec, int64_t batch, int threads) : spec_(spec), batch_(batch) {
    check_spec(spec, batch, threads);
    set_threads(threads);
    context_.engine = dnnl::engine(dnnl::engine::kind::cpu, 0);
    context_.stream = dnnl::stream(context_.engine);
    context_.threads = threads;

    plan_.network = spec.name;
    plan_.batch = batch;
    plan_.threads = threads;
    plan_.isa = onednn::effective_isa();
    plan_.library = onednn::library_name();
    make_layers();
    place_buffers();
  }

  void make_layers() {
    onednn::Desc src = onednn::make_desc(
        {batch_, spec_.input.channels, spec_.input.height, spec_.input.width}, onednn::Tag::nchw);
    activation_bytes_.push_back(static_cast<int64_t>(src.get_size()));
    for (int k = 0; k < count(); ++k) {
      layers_.push_back(make_layer(k, src));
      parameters_before_.push_back(static_cast<int>(plan_.parameters.size()));
      layers_.back()->describe(k, plan_);
      src = layers_.back()->dst_desc();
      activation_bytes_.push_back(static_cast<int64_t>(src.get_size()));
    }
    parameters_before_.push_back(static_cast<int>(plan_.parameters.size()));
  }

  std::unique_ptr<Layer> make_layer(int k, const onednn::Desc& src) const {
    const LayerSpec& spec = spec_.layers[k];
    const bool first = !has_input_gradient(k);
    // Pooling looks at its input again anyway, so it masks the gradient for the layer before it.
    const bool pooled = k + 1 < count() && spec_.layers[k + 1].kind == LayerKind::kMaxPool;
    const bool mask_gradient = spec.relu && !pooled;
    switch (spec.kind) {
      case LayerKind::kConvolution:
        return make_convolution_layer(context_, spec, src, first, mask_gradient);
      case LayerKind::kLinear:
        return make_linear_layer(context_, spec, src, first, mask_gradient);
      case LayerKind::kMaxPool:
        if (spec.relu) {
          throw UserError::format("max pooling {} has a ReLU; put it on the layer before", spec.name);
        }
        return make_max_pool_layer(context_, spec, src, first, k > 0 && spec_.layers[k - 1].relu);
    }
    CHECK(false, "layer {}", spec.name);
  }

  // Whether the gradient of layer k's input is of use: whether a layer before it has parameters.
  bool has_input_gradient(int k) const {
    return std::any_of(spec_.layers.begin(), spec_.layers.begin() + k,
                       [](const LayerSpec& layer) { return layer.kind != LayerKind::kMaxPool; });
  }

  // Moments of a step: forward of layer k is k, the loss is count(), backward of layer k is 2 * count() - k.
  void place_buffers() {
    const int last_moment = 2 * count();
    const auto backward_of = [&](int layer) { return last_moment - layer; };
    std::vector<ArenaBuffer> buffers;
    const auto add = [&](int64_t bytes, int first_use, int last_use) {
      buffers.push_back({bytes, first_use, last_use});
      return static_cast<int>(buffers.size()) - 1;
    };

    // activations_[k] and gradients_[k]: the input of layer k; [count()]: the logits.
    std::vector<int> activations(count() + 1), gradients(count() + 1, kNone);
    for (int k = 0; k <= count(); ++k) {
      const bool is_input = k == 0, is_output = k == count();
      // The logits stay for whoever wants to look at them after the step.
      const int last_use = is_output ? last_moment : backward_of(k);
      const int kept = !is_input && layers_[k - 1]->needs().keeps_dst ? backward_of(k - 1) : 0;
      activations[k] = add(activation_bytes_[k], is_input ? 0 : k - 1, std::max(last_use, kept));
    }
    for (int k = 1; k <= count(); ++k) {
      if (!has_input_gradient(k)) continue;
      const bool is_output = k == count();
      if (!is_output && layers_[k]->needs().in_place) {
        gradients[k] = activations[k];
        buffers[gradients[k]].last_use = backward_of(k - 1);
      } else {
        gradients[k] = add(activation_bytes_[k], is_output ? count() : backward_of(k), backward_of(k - 1));
      }
    }
    std::vector<int> forward_scratch, backward_scratch;
    for (int k = 0; k < count(); ++k) {
      forward_scratch.push_back(add(layers_[k]->needs().forward_scratch, k, k));
      backward_scratch.push_back(add(layers_[k]->needs().backward_scratch, backward_of(k), backward_of(k)));
    }

    const ArenaPlan arena = plan_arena(buffers);
    plan_.arena_bytes = arena.bytes;
    for (int k = 0; k <= count(); ++k) {
      activation_offsets_.push_back(arena.offsets[activations[k]]);
      gradient_offsets_.push_back(gradients[k] == kNone ? kNone : arena.offsets[gradients[k]]);
      if (k == count()) break;
      forward_scratch_offsets_.push_back(arena.offsets[forward_scratch[k]]);
      backward_scratch_offsets_.push_back(arena.offsets[backward_scratch[k]]);
    }
  }

  void bind_arena(std::span<std::byte> arena) {
    CHECK(arena_ == nullptr, "bind_arena was called before");
    CHECK(static_cast<int64_t>(arena.size()) >= plan_.arena_bytes, "{} of {} bytes", arena.size(),
          plan_.arena_bytes);
    CHECK(reinterpret_cast<uintptr_t>(arena.data()) % ArenaPlan::kAlignment == 0);
    arena_ = arena.data();
    for (int k = 0; k < count(); ++k) {
      layers_[k]->bind({.src = at(activation_offsets_[k]),
                        .dst = at(activation_offsets_[k + 1]),
                        .diff_src = gradient_at(k),
                        .diff_dst = gradient_at(k + 1),
                        .forward_scratch = at(forward_scratch_offsets_[k]),
                        .backward_scratch = at(backward_scratch_offsets_[k])});
    }
  }

  void set_parameter_offsets(std::span<const int64_t> offsets) {
    CHECK(offsets.size() == plan_.parameters.size(), "{} offsets for {} parameters", offsets.size(),
          plan_.parameters.size());
    for (const int64_t offset : offsets) CHECK(offset % 16 == 0, "offset {}", offset);
    for (int k = 0; k < count(); ++k) {
      layers_[k]->set_parameter_offsets(
          offsets.subspan(parameters_before_[k], parameters_before_[k + 1] - parameters_before_[k]));
    }
  }

  std::span<float> activation(int k) const {
    return {reinterpret_cast<float*>(at(activation_offsets_[k])), activation_bytes_[k] / sizeof(float)};
  }

  LossSum loss(std::span<const uint8_t> labels, float scale) {
    CHECK(static_cast<int64_t>(labels.size()) <= batch_, "{} labels for a batch of {}", labels.size(),
          batch_);
    const std::span<float> logits = activation(count());
    auto* gradient = static_cast<float*>(gradient_at(count()));
    return softmax_cross_entropy(logits, spec_.classes, labels, scale, {gradient, logits.size()});
  }

  Layer& layer(int k) {
    CHECK(k >= 0 && k < count(), "layer {} of {}", k, count());
    return *layers_[k];
  }
  int count() const { return static_cast<int>(spec_.layers.size()); }
  const NetworkPlan& plan() const { return plan_; }

 private:
  static constexpr int kNone = -1;

  std::byte* at(int64_t offset) const {
    CHECK(arena_ != nullptr, "the network has no arena yet");
    return arena_ + offset;
  }

  void* gradient_at(int k) const {
    return gradient_offsets_[k] == kNone ? nullptr : at(gradient_offsets_[k]);
  }

  NetworkSpec spec_;
  int64_t batch_;
  LayerContext context_;
  NetworkPlan plan_;
  std::vector<std::unique_ptr<Layer>> layers_;
  std::vector<int> parameters_before_;  // parameters of the layers before layer k
  // Of the input of layer k; the last entry is that of the logits.
  std::vector<int64_t> activation_bytes_, activation_offsets_, gradient_offsets_;
  std::vector<int64_t> forward_scratch_offsets_, backward_scratch_offsets_;
  std::byte* arena_ = nullptr;
};

Network::Network(const NetworkSpec& spec, int64_t batch, int threads)
    : impl_(std::make_unique<Impl>(spec, batch, threads)) {}
Network::~Network() = default;

const NetworkPlan& Network::plan() const { return impl_->plan(); }
void Network::bind_arena(std::span<std::byte> arena) { impl_->bind_arena(arena); }
void Network::set_parameter_offsets(std::span<const int64_t> offsets) {
  impl_->set_parameter_offsets(offsets);
}
std::span<float> Network::input() { return impl_->activation(0); }
int Network::layers() const { return impl_->count(); }
void Network::forward(int layer, const float* weights) { impl_->layer(layer).forward(weights); }
std::span<const float> Network::logits() const { return impl_->activation(impl_->count()); }
LossSum Network::loss(std::span<const uint8_t> labels, float scale) { return impl_->loss(labels, scale); }
void Network::backward(int layer, const float* weights, float* gradients) {
  impl_->layer(layer).backward(weights, gradients);
}

}  // namespace annulus
