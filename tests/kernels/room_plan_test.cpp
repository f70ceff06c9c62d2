// Rooms of the arena, checked by going through a step: every call says what it finds in its rooms, and finds
// it there only if nothing that shares their bytes was written since.
#include "kernels/room_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "kernels/arena_plan.h"
#include "network_specs.h"
#include "telemetry/check.h"

namespace annulus {
namespace {

constexpr int kWord = 4;  // bytes that are told apart

int64_t whole_lines(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// A step of a network as Network goes through it, with names of what lies in the arena in place of numbers.
class Rehearsal {
 public:
  Rehearsal(const NetworkSpec& spec, const Staging& staging, const RoomNeeds& needs, const RoomPlan& plan)
      : spec_(spec),
        staging_(staging),
        needs_(needs),
        plan_(plan),
        count_(static_cast<int>(spec.layers.size())) {
    for (int stage = 0; stage < static_cast<int>(staging.stages.size()); ++stage) {
      stage_of_.insert(stage_of_.end(), staging.stages[stage].layers, stage);
    }
    written_parts_.resize(count_ + 1);
    arena_.resize(plan.arena_bytes / kWord, kNothing);
  }

  // Returns what went wrong first, or nothing.
  std::string run() {
    const bool narrow = plan_.float_input.bytes > 0;
    put(all_of(narrow ? plan_.float_input : plan_.activations[0], narrow ? "floats" : activation(0)));
    for (int stage = 0; stage < static_cast<int>(staging_.stages.size()); ++stage) {
      for (int portion = 0; portion < portions(stage); ++portion) {
        if (stage == 0 && narrow) {
          call({part_of(0, portion, plan_.float_input, "floats")},
               {part_of(0, portion, plan_.activations[0], activation(0))});
        }
        for (int k = first(stage); k < first(stage) + staging_.stages[stage].layers; ++k) forward(k, portion);
      }
    }
    const Thing logits = all_of(plan_.activations[count_], activation(count_));
    const Thing loss = all_of(plan_.gradients[plan_.parts[count_].front()], part(count_, 0));
    written_parts_[count_] = 1;
    if (narrow) {
      const Thing floats = all_of(plan_.float_loss, "float loss");
      call({logits}, {floats});
      call({floats}, {loss});
    } else {
      call({logits}, {loss});
    }
    for (int stage = static_cast<int>(staging_.stages.size()) - 1; stage >= 0; --stage) {
      for (int portion = 0; portion < portions(stage); ++portion) {
        for (int k = first(stage) + staging_.stages[stage].layers - 1; k >= first(stage); --k) {
          if (!plan_.parts[k + 1].empty()) backward(k, portion);
        }
      }
    }
    expect({logits});
    return failure_;
  }

 private:
  static constexpr int kNothing = 0;

  // Something in a range of bytes of the arena.
  struct Thing {
    std::string name;
    int64_t offset = 0, bytes = 0;
  };
  using Things = std::vector<Thing>;

  int portions(int stage) const { return static_cast<int>(staging_.batch / staging_.stages[stage].portion); }
  int first(int stage) const { return staging_.stages[stage].first_layer; }
  static std::string activation(int a) { return "activation " + std::to_string(a); }
  static std::string part(int a, int i) {
    return "part " + std::to_string(i) + " of the gradient of activation " + std::to_string(a);
  }

  static Thing all_of(const Room& room, const std::string& name) { return {name, room.offset, room.bytes}; }
  // Layer k's, for one portion of its stage. Portions that use a room in turn leave different things in it.
  Thing part_of(int k, int portion, const Room& room, const std::string& name) const {
    if (room.shared) return {name + ", portion " + std::to_string(portion), room.offset, room.bytes};
    const int64_t bytes = room.bytes / portions(stage_of_[k]);
    return {name, room.offset + portion * bytes, bytes};
  }
  // The same where later portions find what earlier ones left.
  static Thing kept(const Room& room, const std::string& name) { return all_of(room, name); }

  void forward(int k, int portion) {
    const LayerSpec& layer = spec_.layers[k];
    const LayerRooms& rooms = plan_.layers[k];
    const int src = input_of(spec_, k);
    const Thing scratch = kept(rooms.forward_scratch, "forward scratch of " + layer.name);
    Things reads{part_of(k, portion, plan_.activations[src], activation(src))};
    if (layer.addend != kNoActivation) {
      reads.push_back(part_of(k, portion, plan_.activations[layer.addend], activation(layer.addend)));
    }
    if (portion > 0) reads.push_back(scratch);
    call(reads, {part_of(k, portion, plan_.activations[k + 1], activation(k + 1)),
                 part_of(k, portion, rooms.saved, "saved by " + layer.name), scratch});
  }

  void backward(int k, int portion) {
    const LayerSpec& layer = spec_.layers[k];
    const LayerNeeds& needs = needs_.layers[k];
    const LayerRooms& rooms = plan_.layers[k];
    const int src = input_of(spec_, k);
    const std::vector<int>& parts = plan_.parts[k + 1];
    const auto gradient = [&](int i) {
      return part_of(k, portion, plan_.gradients[parts[i]], part(k + 1, i));
    };
    if (portion == 0 && written_parts_[k + 1] != static_cast<int>(parts.size())) {
      fail(layer.name + " runs before its gradient is complete");
    }
    const int joined_by_layer = needs.joins ? 2 : 1;
    for (int i = joined_by_layer; i < static_cast<int>(parts.size()); ++i) {
      call({gradient(0), gradient(i)}, {gradient(0)});
    }

    const Thing scratch = kept(rooms.backward_scratch, "backward scratch of " + layer.name);
    const Thing own = part_of(k, portion, rooms.gradients, "a portion's gradients of " + layer.name);
    Things reads{part_of(k, portion, rooms.saved, "saved by " + layer.name)};
    if (needs.joins && parts.size() > 1) reads.push_back(gradient(1));
    if (needs.reads_src) reads.push_back(part_of(k, portion, plan_.activations[src], activation(src)));
    if (needs.reads_dst) reads.push_back(part_of(k, portion, plan_.activations[k + 1], activation(k + 1)));
    if (portion > 0) reads.push_back(scratch);
    Things writes{scratch};
    if (portion > 0) writes.push_back(own);
    if (rooms.diff_src != kNoRoom) writes.push_back(part_of_gradient(k, portion, src, rooms.diff_src));
    if (rooms.diff_addend != kNoRoom) {
      writes.push_back(part_of_gradient(k, portion, layer.addend, rooms.diff_addend));
    }
    expect({gradient(0)});
    put({"leavings of " + layer.name, gradient(0).offset,
         gradient(0).bytes});  // a layer may overwrite diff_dst
    call(reads, writes);
  }

  // The part of the gradient of activation `a` that layer k writes.
  Thing part_of_gradient(int k, int portion, int a, int room) {
    const Room& place = plan_.gradients[room];
    if (plan_.parts[a].empty()) return part_of(k, portion, place, "a gradient that nobody needs");
    const auto found = std::ranges::find(plan_.parts[a], room);
    if (found == plan_.parts[a].end()) {
      fail(spec_.layers[k].name + " writes into a room that its gradient's reader does not look into");
      return {};
    }
    if (portion == 0) ++written_parts_[a];
    const int i = static_cast<int>(found - plan_.parts[a].begin());
    return part_of(k, portion, place, part(a, i));
  }

  // Finds `reads`, and leaves them (but for what it writes over by name) and all of `writes` behind.
  void call(const Things& reads, const Things& writes) {
    expect(reads);
    for (const Thing& thing : writes) put(thing);
    expect(reads);
    expect(writes);
  }
  void put(const Thing& thing) {
    const int name = number_of(thing.name);
    for (int64_t i = thing.offset / kWord; i < (thing.offset + thing.bytes) / kWord; ++i) arena_[i] = name;
  }
  void expect(const Things& things) {
    for (const Thing& thing : things) {
      const int name = number_of(thing.name);
      for (int64_t i = thing.offset / kWord; i < (thing.offset + thing.bytes) / kWord; ++i) {
        if (arena_[i] == name) continue;
        return fail("in place of " + thing.name + " lies " + names_[arena_[i]]);
      }
    }
  }
  int number_of(const std::string& name) {
    const auto [found, is_new] = numbers_.insert({name, static_cast<int>(names_.size())});
    if (is_new) names_.push_back(name);
    return found->second;
  }
  void fail(const std::string& what) {
    if (failure_.empty()) failure_ = what;
  }

  const NetworkSpec& spec_;
  const Staging& staging_;
  const RoomNeeds& needs_;
  const RoomPlan& plan_;
  const int count_;
  std::vector<int> stage_of_;
  std::vector<int> written_parts_;  // per activation
  std::vector<int> arena_;          // numbers of names
  std::map<std::string, int> numbers_;
  std::vector<std::string> names_{"nothing"};
  std::string failure_;
};

// What the layers of a network might need; odd sizes.
RoomNeeds needs_of(const NetworkSpec& spec, const Staging& staging, bool narrow, std::mt19937& random) {
  const std::vector<ImageShape> shapes = activation_shapes(spec);
  const auto some = [&](int64_t most) { return whole_lines(static_cast<int64_t>(random()) % (most + 1)); };
  const auto coin = [&] { return random() % 2 == 0; };
  RoomNeeds needs;
  for (const LayerSpec& layer : spec.layers) {
    const bool weighted = layer.kind == LayerKind::kConvolution || layer.kind == LayerKind::kLinear;
    const bool norm = layer.kind == LayerKind::kBatchNorm;
    needs.layers.push_back({.forward_scratch = weighted ? some(900) : 0,
                            .backward_scratch = weighted ? some(900) : 0,
                            .gradients = weighted ? 64 + some(500) : 0,
                            .saved = weighted ? 0 : 4 * static_cast<int64_t>(random() % 60),
                            .reads_src = weighted || norm,
                            .reads_dst = layer.relu && coin(),
                            .joins = norm,
                            .in_place = norm || layer.kind == LayerKind::kAdd});
  }
  std::vector<int> stage_of;
  for (int stage = 0; stage < static_cast<int>(staging.stages.size()); ++stage) {
    stage_of.insert(stage_of.end(), staging.stages[stage].layers, stage);
  }
  const int64_t element = narrow ? 2 : 4;
  for (int a = 0; a < static_cast<int>(shapes.size()); ++a) {
    const bool inside = a > 0 && a + 1 < static_cast<int>(shapes.size()) && stage_of[a - 1] == stage_of[a];
    const int64_t portion = inside ? staging.stages[stage_of[a]].portion : staging.batch;
    const int64_t bytes = portion * shapes[a].pixels() * element;
    needs.activation_bytes.push_back(inside ? whole_lines(bytes) * (staging.batch / portion) : bytes);
  }
  if (narrow) {
    needs.float_input_bytes = staging.batch * spec.input.pixels() * 4;
    needs.float_loss_bytes = staging.batch * spec.classes * 4;
  }
  return needs;
}

int64_t bytes_of_all(const RoomPlan& plan) {
  int64_t bytes = plan.float_input.bytes + plan.float_loss.bytes;
  for (const Room& room : plan.activations) bytes += room.bytes;
  for (const Room& room : plan.gradients) bytes += room.bytes;
  for (const LayerRooms& rooms : plan.layers) {
    bytes += rooms.saved.bytes + rooms.forward_scratch.bytes + rooms.backward_scratch.bytes +
             rooms.gradients.bytes;
  }
  return bytes;
}

// Plans rooms, goes through a step and returns the plan.
RoomPlan rehearse(const NetworkSpec& spec, const Staging& staging, bool narrow, std::mt19937& random) {
  const RoomNeeds needs = needs_of(spec, staging, narrow, random);
  RoomPlan plan = plan_rooms(spec, staging, needs);
  EXPECT_EQ(Rehearsal(spec, staging, needs, plan).run(), "") << spec.name;
  return plan;
}

// Convolutions process portions of these sizes, which plan_stages might choose for other shapes.
void vary_portions(const NetworkSpec& spec, Staging& staging, std::mt19937& random) {
  for (StagePlan& stage : staging.stages) {
    if (spec.layers[stage.first_layer].kind != LayerKind::kConvolution) continue;
    do {
      stage.portion = 1 + static_cast<int64_t>(random()) % staging.batch;
    } while (staging.batch % stage.portion != 0);
  }
}

TEST(RoomPlan, KeepsWhatIsStillReadInSmallNetworks) {
  std::mt19937 random(1);
  for (const NetworkSpec& spec : small_networks()) {
    for (const int64_t images : {1, 5, 12}) {
      for (const bool narrow : {false, true}) {
        Staging staging = plan_stages(spec, images, 1);
        rehearse(spec, staging, narrow, random);
        vary_portions(spec, staging, random);
        rehearse(spec, staging, narrow, random);
      }
    }
  }
}

TEST(RoomPlan, KeepsWhatIsStillReadInRandomGraphs) {
  std::mt19937 random(2);
  for (int round = 0; round < 2000; ++round) {
    const NetworkSpec spec = random_graph(random, 2);
    Staging staging = plan_stages(spec, 1 + static_cast<int64_t>(random() % 6), 1);
    vary_portions(spec, staging, random);
    rehearse(spec, staging, round % 2 == 0, random);
    ASSERT_FALSE(HasFailure()) << text_of(spec);
  }
}

TEST(RoomPlan, KeepsWhatIsStillReadInResNetsInLittleRoom) {
  std::mt19937 random(3);
  for (const char* model : {"resnet18", "resnet50"}) {
    for (const char* stem : {"cifar", "imagenet"}) {
      const NetworkSpec spec = make_network(model, {3, 32, 32}, 10, stem);
      for (const bool narrow : {false, true}) {
        const RoomPlan plan = rehearse(spec, plan_stages(spec, 4, 1), narrow, random);
        // Gradients share bytes with each other and with activations that were read for the last time.
        EXPECT_LT(plan.arena_bytes, bytes_of_all(plan) * 3 / 4) << model;
      }
    }
  }
}

TEST(RoomPlan, AShortcutsGradientLiesWhereTheSumsDoes) {
  const NetworkSpec spec = net("residual", {3, 6, 6},
                               {bare_conv("conv1", 16, 3, 1), norm("bn1", true), bare_conv("conv2", 16, 3, 1),
                                norm("bn2", true, 2), fc("fc1", 4, false)});
  std::mt19937 random(4);
  const RoomPlan plan = rehearse(spec, plan_stages(spec, 4, 1), false, random);
  EXPECT_EQ(plan.parts[2].size(), 2U);
  EXPECT_EQ(plan.layers[3].diff_addend, plan.parts[4].front());
  EXPECT_NE(plan.layers[3].diff_src, plan.layers[3].diff_addend);
  EXPECT_EQ(plan.parts[2], (std::vector<int>{plan.layers[3].diff_addend, plan.layers[2].diff_src}));
  EXPECT_TRUE(plan.parts[0].empty());
  EXPECT_EQ(plan.layers[0].diff_src, kNoRoom);
}

}  // namespace
}  // namespace annulus
