// WeightedLayer: what convolutions and linear layers have in common: three primitives (forward,
// backward-weights, backward-data), weights in one master layout, a bias, and a ReLU fused into forward.
//
// The master layout is the one that backward-weights picks, since it writes there. The other passes are tried
// with it; a pass whose kernel gets worse by that keeps the layout of its own choice and reads a view: a copy
// of the weights, reordered into scratch right before the pass. In bf16 both always do: weights and their
// gradients are fp32, activations, their gradients and the views bf16.
#pragma once

#include <functional>
#include <optional>

#include "kernels/dnnl_compat.h"
#include "kernels/layer.h"
#include "kernels/network_spec.h"
#include "kernels/weight_view.h"
#include "telemetry/error.h"

namespace annulus {

// Makes the primitive of one pass for a layout of the weights, or an empty one where there is no kernel. All
// other layouts of the pass are fixed.
using PassMaker = std::function<dnnl::primitive_desc(const onednn::Desc& weights)>;

struct WeightedLayerPlan {
  onednn::Dims weight_dims;
  // Those that are trained, in the same number of dimensions. The others fill up blocks of channels: they are
  // zero, and so are their gradients, since the channels that they join are zero as well.
  onednn::Dims trained_dims;
  int64_t fan_in = 0;
  onednn::Desc src, dst;
  onednn::Desc seen_dst;  // as other layers see it: the same memory with trained_dims[0] channels
  onednn::Desc diff_dst;  // as dst; but for the logits, which are always fp32, in the type of activations
  PassMaker forward;
  std::function<dnnl::primitive_desc(const onednn::Desc& src, const onednn::Desc& weights)> backward_weights;
  PassMaker backward_data;  // empty where the input needs no gradient
};

// Layout of a bias for `channels` outputs; Desc() for a layer without one.
onednn::Desc bias_desc(const LayerSpec& spec, int64_t channels);

// What to say where oneDNN has no fast kernel for a pass. `found`: what it has; empty: nothing.
UserError no_fast_kernel(const LayerSpec& spec, const char* pass, const onednn::Desc& src,
                         const onednn::Desc& dst, const std::string& found);

class WeightedLayer final : public Layer {
 public:
  // `mask_gradient`: the layer has a ReLU and nobody behind it masks the gradient by it. Throws
  // UserError where oneDNN has no kernel, or only a reference one on a machine with fast ones.
  WeightedLayer(const LayerContext& context, const LayerSpec& spec, const WeightedLayerPlan& plan,
                bool mask_gradient);

  const dnnl::memory::desc& dst_desc() const override { return seen_dst_desc_; }
  LayerNeeds needs() const override;
  void describe(int index, NetworkPlan& plan) override;
  void set_parameter_offsets(std::span<const int64_t> offsets) override;
  void forward(const Portion& portion, const float* weights) override;
  void backward(const Portion& portion, const float* weights, float* gradients) override;

 private:
  // One pass: its primitive, and the reorder before it where it reads a view.
  struct Pass {
    dnnl::primitive_desc desc;
    onednn::Desc weights_desc;
    onednn::Desc viewed_desc;  // layout of the view, where there is one
    // What makes the view: our kernel, or, where it does not know the layouts, oneDNN's reorder.
    std::optional<WeightView> weight_view;
    std::optional<dnnl::primitive_desc_base> view_desc;
    onednn::BoundPrimitive primitive;
    onednn::BoundPrimitive view;
    dnnl::memory viewed, scratchpad, view_scratchpad;
    int kernel = 0;  // its number in the network's plan

    bool has_view() const { return weight_view.has_value() || view_desc.has_value(); }
    // Whole cache lines.
    int64_t view_bytes() const;
    int64_t scratchpad_bytes() const;
  };

  // Where a pass has its view and its scratchpad.
  struct Scratch {
    std::byte* view;
    std::byte* pad;
  };

  Pass choose_writer(const WeightedLayerPlan& plan) const;
  Pass choose(const char* name, const PassMaker& make) const;
  Pass checked(const char* name, dnnl::primitive_desc desc, const onednn::Desc& weights) const;
  void add_view(Pass& pass, const onednn::Desc& from, const onednn::Desc& to) const;
  void bind_input(Pass& pass, int viewed_arg, const dnnl::memory& original) const;
  void run(Pass& pass, const Scratch& scratch, bool renew_view) const;
  void mask_by_relu(const Portion& portion) const;
  void add_to(float* sum, const float* addend, int64_t count) const;
  void plan_kernel(const char* name, Pass& pass, NetworkPlan& plan) const;

  LayerContext context_;
  LayerSpec spec_;
  int64_t fan_in_, weight_count_, bias_count_;  // counts of stored elements; no bias: 0
  bool mask_gradient_;
  onednn::Desc src_desc_, dst_desc_, seen_dst_desc_, diff_dst_desc_, master_desc_, bias_desc_;
  onednn::Dims trained_dims_;
  Pass backward_weights_, forward_;
  std::optional<Pass> backward_data_;

  dnnl::memory src_, dst_, diff_src_, diff_dst_;
  dnnl::memory weights_, bias_, diff_weights_, diff_bias_;
  const float* master_weights_ = nullptr;  // of the call under way
  int64_t weights_offset_ = 0, bias_offset_ = 0;
  int mask_kernel_ = 0;  // its number in the network's plan
};

}  // namespace annulus
