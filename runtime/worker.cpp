#include "runtime/worker.h"

#include <algorithm>
#include <cstring>

#include "collectives/bridge_links.h"
#include "collectives/exchange_thread.h"
#include "collectives/publish.h"
#include "kernels/image_batch.h"
#include "kernels/reduce.h"
#include "runtime/initial_weights.h"
#include "runtime/top_k_packing.h"
#include "telemetry/check.h"

namespace annulus {
namespace {

// Starts loading an image that is read soon: images of a batch lie all over the data set, where the processor
// cannot foresee them.
void prefetch(std::span<const uint8_t> image) {
  constexpr std::size_t kLineBytes = 64;
  for (std::size_t i = 0; i < image.size(); i += kLineBytes) __builtin_prefetch(&image[i]);
  __builtin_prefetch(&image.back());  // on a line of its own where the image starts inside one
}

}  // namespace

Worker::Worker(const RunPlan& run, const Segment& segment, int rank, std::function<void()> notify,
               uint32_t left)
    : run_(run),
      segment_(segment),
      rank_(rank),
      notify_(std::move(notify)),
      header_(segment.header()),
      part_(segment.rank(rank)),
      versions_(segment.versions()),
      waiter_(header_.wait, segment.controls(), rank, run.waiting),
      sum_plan_(run.segment_inputs().exchange().rank_sum(rank)),
      data_(segment.data(run.dataset)),
      shards_(run.shards_of(rank)),
      momentum_(run.config, run.network, run.buckets),
      compression_(run.config, run.network, run.buckets),
      attempt_(left) {
  update_stores_.moments = store_of_moments(run.buckets.elements);
}

void Worker::run() {
  prepare();
  for (;;) {
    const auto released = [&] { return header_.attempt.load(std::memory_order_acquire) != attempt_; };  // Q1
    const auto dismissed = [&] { return header_.dismissed.load(std::memory_order_acquire) != 0; };
    waiter_.wait_parked([&] { return released() || dismissed(); });
    if (!released()) return;
    try {
      join_attempt();
      train();
      return;
    } catch (const StepAborted&) {
      park();
    } catch (const LinkError& error) {
      report_broken_link(error);
      park();
    }
  }
}

void Worker::train() {
  enter(RankState::kReady);
  const auto launcher = WaitFor{Await::kLauncher, 0, 0, 0};
  waiter_.wait(launcher, [&] { return header_.data_ready.load(std::memory_order_acquire) != 0; });
  enter(RankState::kTraining);

  const uint32_t committed = versions_.load(rank_, 0);  // all versions are, at an attempt's begin
  if (committed > 0 && header_.evaluated_step.load(std::memory_order_relaxed) != committed) {
    evaluate_after(committed);
  }
  for (uint32_t k = committed + 1; k <= header_.last_step.load(std::memory_order_acquire); ++k) {
    if (!step(k)) break;
    protocol_point(ProtocolPoint::kStepEnd);
    evaluate_after(k);
  }
  finish_update();

  enter(RankState::kFinished);
  protocol_point(ProtocolPoint::kDismiss);
  waiter_.wait(launcher, [&] { return header_.dismissed.load(std::memory_order_acquire) != 0; });
}

// Leaves the attempt: nothing of it is written any more.
void Worker::park() {
  protocol_point(ProtocolPoint::kUnwind);
  exchange_.reset();  // with its thread, if it has one
  bridge_.reset();
  part_.control.parked.store(attempt_, std::memory_order_release);  // P0
  notify_();
  protocol_point(ProtocolPoint::kPark);
}

// The launcher begins a recovery, in which this process goes on.
void Worker::report_broken_link(const LinkError& error) {
  std::strncpy(part_.failure, error.what(), sizeof part_.failure - 1);
  part_.state.store(RankState::kLinkFailed, std::memory_order_release);
}

void Worker::enter(RankState state) {
  part_.state.store(state, std::memory_order_release);
  notify_();
}

void Worker::prepare() {
  const auto beat = [this] { waiter_.beat(); };
  NetworkOptions options = network_options(run_.config, run_.spec);
  options.made = beat;
  network_ = std::make_unique<Network>(run_.spec, options);
  if (network_->plan().hash() != header_.plan_hash) {
    throw StepError(
        fmt::format("rank {} plans other kernels than the planner did (plan {:016x}, here {:016x}): results "
                    "would not be the same "
                    "on all ranks; unset DNNL_* and OMP_* variables that differ between processes, and "
                    "report this as a bug",
                    rank_, header_.plan_hash, network_->plan().hash()));
  }
  arena_ = Arena(network_->plan().arena_bytes, beat);
  network_->bind_arena(arena_.bytes());
  network_->set_parameter_offsets(run_.buckets.offsets);
  part_.arena_address.store(reinterpret_cast<uint64_t>(arena_.bytes().data()), std::memory_order_relaxed);
  part_.arena_bytes.store(arena_.bytes().size(), std::memory_order_relaxed);
  labels_.resize(nominal_shard(run_.config));
  buckets_by_stage_ = run_.buckets.buckets_by_stage(run_.network);

  const SegmentPlan& plan = segment_.plan();
  populate(segment_.base() + plan.state.offset, plan.state.bytes, beat);
  populate(segment_.gradients(rank_, 0),
           header_.gradient_sets * plan.gradient_buffers[rank_] * plan.gradient_buffer_bytes, beat);
  const uint64_t both = 2 * plan.state_array_bytes;
  const auto populate_kept = [&](int64_t shard) {
    populate(segment_.residual_after(0, shard), both, beat);
    if (float* const velocity = segment_.velocity_after(0, shard)) populate(velocity, both, beat);
  };
  if (keeps_host_residual(run_.config)) populate_kept(0);
  if (keeps_residuals(run_.config)) {
    for (int64_t shard = shards_.begin; shard < shards_.end; ++shard) populate_kept(shard);
  }
  populate(segment_.base(), plan.state.offset, beat);  // header, ranks, versions, rings
}

// At the committed step: all versions are the same, rings are empty.
void Worker::join_attempt() {
  attempt_ = header_.attempt.load(std::memory_order_acquire);  // Q1
  protocol_point(ProtocolPoint::kResume);
  updating_step_ = 0;
  hidden_ = {};
  counted_ = {part_.descriptors.load(std::memory_order_relaxed), part_.bytes.load(std::memory_order_relaxed),
              part_.wire.load()};
  recorded_wire_ = counted_.wire;
  const ExchangePlan exchange = run_.segment_inputs().exchange();
  const auto sink = [this](int64_t offset, int64_t count, const float* sum) { apply(offset, count, sum); };
  // All that the optimizer updates takes part in the norm.
  if (run_.config.clip > 0)
    meeting_.emplace(segment_.norms(), exchange, rank_, ShardRange{0, run_.buckets.statistics});
  NormMeeting* const meeting = meeting_ ? &*meeting_ : nullptr;
  if (run_.hosts.several()) make_bridge();
  if (run_.comm_cpus.empty()) {
    exchange_ = std::make_unique<Exchange>(exchange, segment_.exchange_memory(), versions_, waiter_, sink,
                                           meeting, bridge_.get());
  } else {
    exchange_ = std::make_unique<ExchangeThread>(exchange, segment_.exchange_memory(), versions_, waiter_,
                                                 ExchangeThread::Place{run_.comm_cpus[rank_], run_.waiting},
                                                 sink, meeting, bridge_.get());
  }
  if (versions_.load(rank_, 0) == Versions::kNone) write_initial_state();
}

// Frames carry the run's last step, so that all hosts stop at the one that rank 0 of the first host has
// chosen: it does so before it publishes anything of that step, and no host commits a step without frames
// that come, from host to host, from the first one.
void Worker::make_bridge() {
  const HostPlan& hosts = run_.hosts;
  std::vector<SocketAddress> addresses;
  for (const auto& of_host : hosts.addresses) addresses.push_back(of_host[rank_]);
  const int thread = run_.comm_cpus.empty() ? Waiter::kComputeThread : Waiter::kExchangeThread;
  Bridge::Wiring wiring{
      .connect = connect_bridge({.own = {.purpose = Purpose::kBridge,
                                         .node = static_cast<uint32_t>(hosts.node),
                                         .rank = static_cast<uint32_t>(rank_),
                                         .world = static_cast<uint32_t>(hosts.count),
                                         .attempt = attempt_,
                                         .job = hosts.job,
                                         .config_hash = hosts.config_hash},
                                 .secret = *hosts.secret,
                                 .addresses = std::move(addresses),
                                 .listener = hosts.listeners[rank_],
                                 .reach_ns = static_cast<int64_t>(run_.config.join_deadline * 1e9)}),
      .arrays = {},
      .attempt = attempt_,
      .notes = {.write = [this] { return header_.last_step.load(std::memory_order_acquire); },
                .read =
                    [this](uint32_t last_step) {
                      uint32_t known = header_.last_step.load(std::memory_order_relaxed);
                      while (last_step < known && !header_.last_step.compare_exchange_weak(
                                                      known, last_step, std::memory_order_release)) {
                      }
                    }},
      .wake = [this, thread] { waiter_.wake_thread(thread); },
      .cpu = run_.comm_cpus.empty() ? -1 : run_.comm_cpus[rank_]};
  for (uint32_t set = 0; set < header_.gradient_sets; ++set) {
    wiring.arrays.push_back(segment_.gradients(rank_, 0, static_cast<int>(set)));
  }
  const BridgePlan plan = run_.bridge(rank_);
  if (keeps_host_residual(run_.config)) {
    wiring.packing = std::make_unique<TopKPacking>(
        run_.schedule, run_.network, run_.buckets, plan.slices,
        TopKPacking::Arrays{.gradients = [this](uint32_t step) { return gradients(step, 0); },
                            .residual = [this](uint32_t step) { return segment_.residual_after(step, 0); },
                            .velocity = [this](uint32_t step) { return segment_.velocity_after(step, 0); }},
        momentum_, sparse_format_of(run_.config));
  }
  bridge_ = std::make_unique<Bridge>(plan, std::move(wiring));
}

// The part of a parameter that this rank owns, in elements from the base of any array of parameters.
ShardRange Worker::own_part(int parameter) const {
  const int64_t begin = run_.buckets.offsets[parameter];
  const int64_t end = begin + run_.network.parameters[parameter].layout.padded_elements();
  const BucketExtent& bucket = run_.buckets.extents[run_.buckets.bucket_of[parameter]];
  const ShardRange slice = slice_of(rank_, run_.config.workers, bucket);
  const int64_t own_begin = std::max(begin, bucket.offset + slice.begin * kBlockElements);
  return {own_begin, std::max(own_begin, std::min(end, bucket.offset + slice.end * kBlockElements))};
}

// New weights, or those of a checkpoint, with its moments. Fresh pages are zero: padding needs no write, nor
// do new moments.
void Worker::write_initial_state() {
  std::vector<float> blocked;
  const auto write = [&](int parameter, float* array, const auto& make) {
    const ShardRange own = own_part(parameter);
    if (own.count() == 0) return;
    const int64_t begin = run_.buckets.offsets[parameter];
    blocked.resize(run_.network.parameters[parameter].layout.padded_elements());
    make(blocked);
    std::copy(blocked.begin() + (own.begin - begin), blocked.begin() + (own.end - begin), array + own.begin);
    protocol_point(ProtocolPoint::kInitialize);
    progress();
  };
  const uint32_t step = run_.initial_step();
  if (run_.resumed) {
    for (const CheckpointTensor& tensor : run_.checkpoint.tensors) {
      if (float* const array = restored_array(tensor)) {
        write(tensor.parameter, array,
              [&](std::vector<float>& to) { run_.resumed->restore(tensor, to.data()); });
      }
    }
  } else {
    for (int i = 0; i < static_cast<int>(run_.network.parameters.size()); ++i) {
      write(i, segment_.weights_after(step), [&](std::vector<float>& to) {
        draw_initial_weights(run_.network.parameters[i], run_.config.seed, i, to);
      });
    }
  }
  for (int bucket = 0; bucket < versions_.buckets(); ++bucket) versions_.store(rank_, bucket, step);
  waiter_.wake_all();
}

// Where this array of a checkpoint goes; null: nowhere.
float* Worker::restored_array(const CheckpointTensor& tensor) const {
  const uint32_t step = run_.initial_step();
  switch (tensor.array) {
    case StateArray::kCount:
      return nullptr;
    case StateArray::kWeights:
      return segment_.weights_after(step);
    case StateArray::kFirstMoment:
      return segment_.moments_after(step, 0);
    case StateArray::kSecondMoment:
      return segment_.moments_after(step, 1);
    case StateArray::kPrevious:
      return step == 0 ? nullptr : segment_.weights_after(step - 1);
    case StateArray::kResidual:
      return segment_.residual_after(step, tensor.shard);
    case StateArray::kVelocity:
      return segment_.velocity_after(step, tensor.shard);
  }
  return nullptr;
}

bool Worker::step(uint32_t step) {
  part_.step.store(step, std::memory_order_relaxed);
  const int64_t begin = now_ns();
  const int64_t busy_before = exchange_->counts().busy_ns;
  const int64_t waited_before = waiter_.waited_ns();
  const StepImages images = run_.schedule.images(step);
  const uint32_t version = version_read(step, run_.config.staleness);
  const float* weights = segment_.weights_after(version);
  const bool delayed = run_.config.staleness != 0;
  bool unseen = true;  // whether others' updates of the weights may be missing yet
  LossSum loss;

  for (int64_t shard = shards_.begin; shard < shards_.end; ++shard) {
    const bool first = shard == shards_.begin, last = shard + 1 == shards_.end;
    const ShardRange part = deal(shard, run_.config.shards, images.count);
    const bool empty = part.count() == 0;
    if (!empty) {
      load_images(images, part);
      const float share = static_cast<float>(part.count()) / static_cast<float>(images.count);
      network_->begin({.training = true, .images = part.count(), .share = share});
      forward(weights, version, std::exchange(unseen, false));
      loss += network_->loss({labels_.data(), static_cast<std::size_t>(part.count())}, 1.0f / images.count);
    }
    if (last) {
      const int64_t now = now_ns();
      part_.unfinished = {.step = step,
                          .attempt = attempt_,
                          .begin_ns = begin,
                          .end_ns = now,
                          .compute_ns = now - begin,
                          .loss_units = loss.loss_units,
                          .images = loss.images,
                          .not_finite = loss.not_finite};
    }
    if (first && !delayed && !admit(step)) return false;
    if (!backward(step, weights, shard, empty, last)) return false;
  }
  // Evaluation is of all updates.
  if (!delayed || evaluates_after(images)) finish_update();

  const int64_t end = now_ns();
  const int64_t comm = exchange_->counts().busy_ns - busy_before;
  const int64_t sync = waiter_.waited_ns() - waited_before;
  WireUse wire = part_.wire.load();
  wire.add(std::exchange(recorded_wire_, wire), -1);
  // A kind of store is kept until a step both reads and writes weights that were stored so.
  if (step % (1 + 2 * run_.config.staleness) == 0) weight_store_.took(run_.buckets.elements, end - begin);
  part_.steps.push({.step = step,
                    .attempt = attempt_,
                    .begin_ns = begin,
                    .end_ns = end,
                    .compute_ns = end - begin - comm - sync,
                    .comm_ns = comm,
                    .sync_ns = sync,
                    .hidden_ns = hidden_.take(exchange_ns()),
                    .loss_units = loss.loss_units,
                    .images = loss.images,
                    .not_finite = loss.not_finite,
                    .gradient_norm = gradient_norm_,
                    .wire = wire});
  return true;
}

// Rule G and the stop point. From here on this step may overwrite what others read for the step before: with
// staleness 0 the gradients, so it stands before backward; with staleness 1 it is only rings and the older
// generation of moments and weights, so it stands before the first bucket is published. The gradients that a
// delayed step writes are those of the step before the last, which this rank saw committed here a step ago.
bool Worker::admit(uint32_t step) {
  finish_update();
  versions_.wait_all(waiter_, step - 1);
  if (step > header_.last_step.load(std::memory_order_acquire)) return false;
  if (rank_ == 0 && run_.hosts.node == 0 && header_.stop_requested.load(std::memory_order_relaxed) != 0) {
    header_.last_step.store(step, std::memory_order_release);
  }
  settle_checkpoint(step);
  updating_step_ = step;
  update_stores_.weights = weight_store_.choose(run_.buckets.elements);
  update_ = OptimizerStep(run_.config, step, run_.schedule.learning_rate(step));
  compression_.begin(run_.schedule.top_k(step));
  exchange_->begin(step);
  return true;
}

// A generation that a checkpoint is made of is overwritten only once it has been copied. Rank 0 chooses the
// steps, and no new one before the last one is copied.
void Worker::settle_checkpoint(uint32_t step) {
  const uint32_t chosen = header_.checkpoint_step.load(std::memory_order_acquire);
  const bool chooses = rank_ == 0 && chosen < step &&
                       step < header_.last_step.load(std::memory_order_relaxed) &&
                       (run_.schedule.images(step).saved ||
                        header_.checkpoint_wanted.load(std::memory_order_relaxed) > chosen);
  if (chosen + 2 <= step || chooses) {
    const int64_t before = waiter_.waited_ns();
    waiter_.wait({Await::kLauncher, 0, 0, 0}, [&] {
      return header_.copied_step.load(std::memory_order_acquire) >= chosen;  // K1
    });
    part_.held_ns.fetch_add(waiter_.waited_ns() - before, std::memory_order_relaxed);
  }
  if (chooses) header_.checkpoint_step.store(step, std::memory_order_release);
}

// Of the step that was admitted last.
void Worker::finish_update() {
  if (updating_step_ == 0) return;
  exchange_->finish();
  if (hidden_.under_way()) end_exchange();
  if (meeting_) gradient_norm_ = meeting_->norm();
  const ExchangeCounts& counts = exchange_->counts();
  part_.descriptors.store(counted_.descriptors + counts.descriptors, std::memory_order_relaxed);
  part_.bytes.store(counted_.bytes + counts.bytes, std::memory_order_relaxed);
  if (bridge_) {
    WireUse use = counted_.wire;
    part_.wire.store(use.add({.bytes = static_cast<int64_t>(bridge_->bytes_sent()),
                              .link_ns = bridge_->link_ns(),
                              .unacknowledged_ns = bridge_->unacknowledged_ns(),
                              .cpu_ns = bridge_->cpu_ns(),
                              .encode_ns = bridge_->packing_ns(),
                              .decode_ns = bridge_->unpacking_ns()}));
  }
}

// Between any two primitives: shows that this rank lives, gives up what has been aborted, and goes on with
// the exchange.
void Worker::progress() {
  waiter_.beat();
  waiter_.check_abort();
  exchange_->progress();
  if (hidden_.under_way() && exchange_->finished()) end_exchange();
}

// The own slices hold the step's update.
void Worker::end_exchange() {
  hidden_.end(exchange_ns());
  if (header_.checkpoint_step.load(std::memory_order_acquire) == updating_step_) notify_();
}

void Worker::evaluate_after(uint32_t step) {
  const StepImages images = run_.schedule.images(step);
  if (evaluates_after(images)) evaluate(images.epoch + 1, step);
}

bool Worker::evaluates_after(const StepImages& images) const {
  return images.evaluated && run_.dataset.test_count > 0;
}

float* Worker::gradients(uint32_t step, int buffer) const {
  return segment_.gradients(rank_, buffer, static_cast<int>(step % header_.gradient_sets));
}

StateArrays Worker::state_after(uint32_t step) const {
  return {segment_.weights_after(step), {segment_.moments_after(step, 0), segment_.moments_after(step, 1)}};
}

void Worker::load_images(const StepImages& images, const ShardRange& part) {
  const DatasetInfo& info = run_.dataset;
  const int64_t pixels = info.shape.pixels();
  const Permutation order(run_.config.seed, images.epoch, info.train_count);
  float* out = network_->input().data();
  const int64_t first = images.begin + part.begin;
  uint64_t next = order(first);
  for (int64_t i = 0; i < part.count(); ++i) {
    const uint64_t image = next;
    if (i + 1 < part.count()) {
      next = order(first + i + 1);
      prefetch(data_.train_images.subspan(next * pixels, pixels));
    }
    ImageShift shift;
    if (run_.config.augment) {
      shift = augmentation(run_.config.seed, images.epoch, image, info.crop_padding, info.flip_allowed);
    }
    convert_image(info.shape, info.normalization, shift, &data_.train_images[image * pixels],
                  out + i * pixels);
    labels_[i] = data_.train_labels[image];
  }
  std::fill(out + part.count() * pixels, out + network_->input().size(), 0.0f);
  waiter_.beat();
}

void Worker::forward(const float* weights, uint32_t version, bool wait_for_updates) {
  for (int stage = 0; stage < run_.network.stage_count(); ++stage) {
    if (wait_for_updates) {
      for (const int bucket : buckets_by_stage_[stage]) versions_.wait_bucket(waiter_, bucket, version);
    }
    for (int portion = 0; portion < network_->portions(stage); ++portion) {
      network_->forward(stage, portion, weights);
      protocol_point(ProtocolPoint::kForward);
      progress();
    }
  }
}

bool Worker::backward(uint32_t step, const float* weights, int64_t shard, bool empty, bool last) {
  float* into = gradients(step, sum_plan_.shards[shard - shards_.begin].buffer);
  if (empty) std::fill_n(into, run_.buckets.elements, 0.0f);
  int next_bucket = 0;
  for (int stage = run_.network.stage_count() - 1; stage >= 0; --stage) {
    const int portions = network_->portions(stage);
    for (int portion = 0; portion < portions; ++portion) {
      if (!empty) network_->backward(stage, portion, weights, into);
      protocol_point(ProtocolPoint::kBackward);
      // Publish the stage's gradients before taking others' up.
      if (portion + 1 < portions) progress();
    }
    const int first_layer = run_.network.stages[stage].first_layer;
    while (next_bucket < versions_.buckets() && run_.buckets.first_layer[next_bucket] >= first_layer) {
      if (last && updating_step_ != step && !admit(step)) return false;
      finish_bucket(step, next_bucket++, shard, last);
    }
    progress();
  }
  return true;
}

void Worker::finish_bucket(uint32_t step, int bucket, int64_t shard, bool last) {
  const BucketExtent& extent = run_.buckets.extents[bucket];
  const RankSum::Shard& sums = sum_plan_.shards[shard - shards_.begin];
  // Where shards keep anything the step has been admitted, so nobody needs that of the step before the last.
  const auto kept_after = [&](uint32_t of) {
    return ShardState{segment_.residual_after(of, shard), segment_.velocity_after(of, shard)};
  };
  compression_.apply(bucket, gradients(step, sums.buffer), kept_after(step - 1), kept_after(step));
  for (const RankSum::Add& sum : sums.adds) {
    float* into = gradients(step, sum.into) + extent.offset;
    add(extent.blocks * kBlockElements, into, gradients(step, sum.from) + extent.offset, into);
  }
  if (!last) return;
  if (!hidden_.under_way()) hidden_.begin(exchange_ns());
  exchange_->publish();
}

void Worker::apply(int64_t offset, int64_t count, const float* sum) {
  protocol_point(ProtocolPoint::kUpdate);
  part_.updating.store(updating_step_, std::memory_order_relaxed);
  if (offset >= run_.buckets.statistics) {
    average_in(count, sum, segment_.weights_after(updating_step_ - 1) + offset,
               segment_.weights_after(updating_step_) + offset);
    return;
  }
  const float factor = meeting_ ? clip_factor(run_.config.clip, meeting_->norm()) : 1.0f;
  if (factor != 1) {
    for (int64_t i = 0; i < count; ++i) clipped_[i] = factor * sum[i];
    sum = clipped_;
  }
  for (int64_t done = 0; done < count;) {
    const int64_t at = offset + done;
    const auto run = momentum_.first_run(at, offset + count);
    update_.apply(run.count, sum + done, state_after(updating_step_ - 1) + at,
                  state_after(updating_step_) + at, update_stores_, run.corrected);
    done += run.count;
  }
}

// Batches of test images are dealt out to ranks in turn. Reads the generation that `step` wrote, which stays
// whole meanwhile: the next update of it is that of step + 2 or later, for which Rule G waits for this rank.
void Worker::evaluate(int64_t epoch, uint32_t step) {
  const DatasetInfo& info = run_.dataset;
  const int64_t pixels = info.shape.pixels(), batch = nominal_shard(run_.config);
  const float* weights = segment_.weights_after(step);
  versions_.wait_all(waiter_, step);
  LossSum sum;
  for (int64_t begin = rank_ * batch; begin < info.test_count; begin += run_.config.workers * batch) {
    const int64_t count = std::min(batch, info.test_count - begin);
    float* out = network_->input().data();
    for (int64_t i = 0; i < count; ++i) {
      convert_image(info.shape, info.normalization, {}, &data_.test_images[(begin + i) * pixels],
                    out + i * pixels);
    }
    std::fill(out + count * pixels, out + network_->input().size(), 0.0f);
    network_->begin({.training = false, .images = count});
    forward(weights, step, false);
    sum += network_->loss(data_.test_labels.subspan(begin, count), 0.0f);
    protocol_point(ProtocolPoint::kEvaluate);
  }
  part_.evaluations.push({.epoch = static_cast<uint64_t>(epoch),
                          .attempt = attempt_,
                          .step = step,
                          .loss_units = sum.loss_units,
                          .correct = sum.correct,
                          .images = sum.images,
                          .not_finite = sum.not_finite});
}

}  // namespace annulus
