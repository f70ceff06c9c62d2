#include "kernels/room_plan.h"

#include <algorithm>
#include <utility>

#include "kernels/arena_plan.h"

namespace annulus {
namespace {

// Moments of a step: forward of layer k is k, the loss is the number of layers, backward of layer k is twice
// that less k.
struct Life {
  int first = 0, last = 0;
};

class RoomPlanner {
 public:
  RoomPlanner(const NetworkSpec& spec, const Staging& staging, const RoomNeeds& needs)
      : spec_(spec),
        staging_(staging),
        needs_(needs),
        count_(static_cast<int>(spec.layers.size())),
        readers_(readers_of(spec)) {
    for (int stage = 0; stage < static_cast<int>(staging.stages.size()); ++stage) {
      stage_of_.insert(stage_of_.end(), staging.stages[stage].layers, stage);
    }
  }

  RoomPlan plan() {
    plan_.activations.resize(count_ + 1);
    plan_.layers.resize(count_);
    place_activations();
    place_gradients();
    place_layers();
    add_for_all(plan_.float_input, needs_.float_input_bytes, {0, 0});
    add_for_all(plan_.float_loss, needs_.float_loss_bytes, {count_, count_});
    const ArenaPlan arena = plan_arena(buffers_);
    for (std::size_t i = 0; i < rooms_.size(); ++i) rooms_[i]->offset = arena.offsets[i];
    plan_.arena_bytes = arena.bytes;
    return std::move(plan_);
  }

 private:
  int addend(int layer) const { return spec_.layers[layer].addend; }
  int backward_of(int layer) const { return 2 * count_ - layer; }
  int portions(int layer) const {
    return static_cast<int>(staging_.batch / staging_.stages[stage_of_[layer]].portion);
  }

  // The moments of the pass of the stage that a moment is part of. A pass goes through them portion by
  // portion.
  Life pass_around(int moment) const {
    if (moment == count_) return {moment, moment};
    const bool forward = moment < count_;
    const StagePlan& stage = staging_.stages[stage_of_[forward ? moment : 2 * count_ - moment]];
    const int first = stage.first_layer, last = stage.first_layer + stage.layers - 1;
    return forward ? Life{first, last} : Life{backward_of(last), backward_of(first)};
  }

  // Whether an activation, or its gradient, passes from one stage to another, into or out of the network.
  bool between_stages(int activation) const {
    if (activation == 0 || activation == count_) return true;
    return std::any_of(readers_[activation].begin(), readers_[activation].end(),
                       [&](int reader) { return stage_of_[reader] != stage_of_[activation - 1]; });
  }

  // Early portions write while others are still to go through earlier moments, and late ones read when others
  // have gone through later ones: what holds the data of all portions lives for whole passes.
  void add_for_all(Room& room, int64_t bytes, Life life) {
    add(room, {.bytes = bytes, .shared = false},
        {pass_around(life.first).first, pass_around(life.last).last});
  }
  void add_shared(Room& room, int64_t bytes, Life life) { add(room, {.bytes = bytes, .shared = true}, life); }
  void add(Room& room, const Room& value, Life life) {
    room = value;
    rooms_.push_back(&room);
    buffers_.push_back({value.bytes, life.first, life.last});
  }

  void place_activations() {
    for (int activation = 0; activation <= count_; ++activation) {
      Life life{std::max(activation - 1, 0), 0};
      for (const int reader : readers_[activation]) {
        const bool again = needs_.layers[reader].reads_src && input_of(spec_, reader) == activation;
        life.last = std::max(life.last, again ? backward_of(reader) : reader);
      }
      if (activation > 0 && needs_.layers[activation - 1].reads_dst) {
        life.last = std::max(life.last, backward_of(activation - 1));
      }
      // The logits stay for whoever wants to look at them after the step.
      if (activation == count_) life.last = backward_of(0);
      const int64_t bytes = needs_.activation_bytes[activation];
      Room& room = plan_.activations[activation];
      if (between_stages(activation) || life.last > count_) {
        add_for_all(room, bytes, life);
      } else {
        add_shared(room, bytes / portions(activation - 1), life);
      }
    }
  }

  // The room of a gradient of `activation` that `layer` writes, or the loss.
  int new_gradient(int activation, int written) {
    plan_.gradients.push_back({.bytes = needs_.activation_bytes[activation]});
    gradient_lives_.push_back({written, written});
    gradient_of_.push_back(activation);
    return static_cast<int>(plan_.gradients.size()) - 1;
  }

  void place_gradients() {
    const std::vector<bool> needed = needs_gradient(spec_);
    plan_.parts.resize(count_ + 1);
    plan_.parts[count_] = {new_gradient(count_, count_)};
    for (int layer = count_ - 1; layer >= 0; --layer) {
      if (!needed[layer + 1]) continue;
      const int moment = backward_of(layer), own = plan_.parts[layer + 1].front();
      for (const int part : plan_.parts[layer + 1]) gradient_lives_[part].last = moment;
      // What backward writes over the gradient that it reads needs no room of its own.
      const auto place = [&](int activation, bool in_place) {
        const int room = in_place ? own : new_gradient(activation, moment);
        if (needed[activation]) plan_.parts[activation].push_back(room);
        return room;
      };
      const int src = input_of(spec_, layer), other = addend(layer);
      LayerRooms& rooms = plan_.layers[layer];
      const bool in_place = needs_.layers[layer].in_place;
      if (other != kNoActivation) {
        rooms.diff_addend = place(other, in_place);
        rooms.diff_src = place(src, false);
      } else if (needed[src]) {
        rooms.diff_src = place(src, in_place);
      }
    }
    for (std::size_t i = 0; i < plan_.gradients.size(); ++i) {
      Room& room = plan_.gradients[i];
      if (between_stages(gradient_of_[i])) {
        add_for_all(room, room.bytes, gradient_lives_[i]);
      } else {
        add_shared(room, room.bytes / portions(gradient_of_[i] - 1), gradient_lives_[i]);
      }
    }
  }

  void place_layers() {
    for (int layer = 0; layer < count_; ++layer) {
      const LayerNeeds& needs = needs_.layers[layer];
      LayerRooms& rooms = plan_.layers[layer];
      add_for_all(rooms.saved, ArenaPlan::whole_lines(needs.saved) * portions(layer),
                  {layer, backward_of(layer)});
      add_shared(rooms.forward_scratch, needs.forward_scratch, pass_around(layer));
      add_shared(rooms.backward_scratch, needs.backward_scratch, pass_around(backward_of(layer)));
      add_shared(rooms.gradients, portions(layer) > 1 ? needs.gradients : 0,
                 {backward_of(layer), backward_of(layer)});
    }
  }

  const NetworkSpec& spec_;
  const Staging& staging_;
  const RoomNeeds& needs_;
  const int count_;
  const std::vector<std::vector<int>> readers_;  // per activation
  std::vector<int> stage_of_;                    // per layer
  std::vector<Life> gradient_lives_;             // per room of plan_.gradients
  std::vector<int> gradient_of_;                 // the activation that it was first made for
  RoomPlan plan_;
  std::vector<Room*> rooms_;
  std::vector<ArenaBuffer> buffers_;
};

}  // namespace

RoomPlan plan_rooms(const NetworkSpec& spec, const Staging& staging, const RoomNeeds& needs) {
  return RoomPlanner(spec, staging, needs).plan();
}

}  // namespace annulus
