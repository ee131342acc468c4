// Choosing one option for each of many places, so that the total damage is least for every total cost.
// Used by tune.cc.
#ifndef KVGEAR_TOOLS_PLAN_CHOOSE_H_
#define KVGEAR_TOOLS_PLAN_CHOOSE_H_

#include <cstddef>
#include <vector>

namespace kvgplan {

struct Option {
  double cost = 0;    // not negative
  double damage = 0;  // not negative
};

/// An assignment: for each place the index of its option.
struct Choice {
  std::vector<size_t> options;
  double cost = 0;
  double damage = 0;
};

/// By dynamic programming over costs in steps of a `steps`-th of the largest total: the choices that
/// no other one beats in both cost and damage, cheapest first. Costs are rounded up to a step while
/// choosing and are exact in the result, so a choice may be dearer than the best by a step for each
/// place, never over a limit. Every place needs an option.
std::vector<Choice> BestChoices(const std::vector<std::vector<Option>>& places,
                                size_t steps = 8192);

/// The cheapest choice with damage <= `most`; where all do more, the one that does least.
const Choice& CheapestUnder(const std::vector<Choice>& choices, double most);

}  // namespace kvgplan

#endif  // KVGEAR_TOOLS_PLAN_CHOOSE_H_
