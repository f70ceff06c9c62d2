// What the option tables of several commands share. launcher/options.h has what other folders call.
#pragma once

#include <cstdint>
#include <string>

#include "launcher/option_table.h"
#include "launcher/placement.h"
#include "runtime/train_config.h"

namespace annulus {

// Limits that keep products of two of them inside 64 bits.
inline constexpr int64_t kMostImages = 1'000'000'000;
inline constexpr int64_t kMostShards = 1'000'000;  // the plan lists them one by one
inline constexpr int64_t kMostSteps = 1'000'000'000'000;

// Usual values of adam and adamw where those of the others would not do.
inline constexpr double kAdamLearningRate = 0.001;
inline constexpr double kAdamWWeightDecay = 0.01;

// All options of `annulus train`, bound to `config`. Other commands take some of them.
OptionTable train_table(TrainConfig& config, std::string& config_file);

// The name of a network, or a path that looks like one: else throws UserError, which begins with `where`.
void check_model(const std::string& model, const std::string& where);
void add_model(OptionTable& table, std::string& target);
// Left out of a saved configuration whose model has no stem.
void add_stem(OptionTable& table, const std::string& model, std::string& target);

// To be called on a table that was parsed.
//
// A stem from a file whose model the command line replaced was not meant for the new one; one beside a model
// that has none is refused (UserError).
void settle_stem(const OptionTable& table, const std::string& model, std::string& stem);
// What an optimizer does not have (sgd and adam: momentum; all but adam and adamw: betas and epsilon) and
// that stems from the defaults, or from a file whose optimizer the command line replaced, was not meant for
// it; one that stands beside the optimizer stays, for check_combinations to refuse. Where adam and adamw have
// usual values of their own, these take the place of defaults, never of what was given.
void settle_optimizer(const OptionTable& table, TrainConfig& config);
// The same for what only --schedule step has.
void settle_schedule(const OptionTable& table, TrainConfig& config);
// The same for what only --compress topk has.
void settle_compression(const OptionTable& table, TrainConfig& config);

}  // namespace annulus
