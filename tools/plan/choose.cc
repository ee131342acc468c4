// The dynamic program: place by place, the least damage for each number of cost steps.
#include "choose.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace kvgplan {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

Choice Sum(const std::vector<std::vector<Option>>& places, std::vector<size_t> options) {
  Choice choice;
  for (size_t p = 0; p < places.size(); ++p) {
    choice.cost += places[p][options[p]].cost;
    choice.damage += places[p][options[p]].damage;
  }
  choice.options = std::move(options);
  return choice;
}

}  // namespace

std::vector<Choice> BestChoices(const std::vector<std::vector<Option>>& places, size_t steps) {
  double dearest = 0;
  for (const auto& place : places) {
    dearest += std::max_element(place.begin(), place.end(), [](const Option& a, const Option& b) {
                 return a.cost < b.cost;
               })->cost;
  }
  const double step = dearest > 0 ? dearest / static_cast<double>(steps) : 1;
  const auto in_steps = [step](double cost) { return static_cast<size_t>(std::ceil(cost / step)); };

  // Rounding up may add a step for each place.
  const size_t width = steps + places.size() + 1;
  std::vector<double> least(width, kNever);
  least[0] = 0;
  std::vector<std::vector<size_t>> taken;  // per place and number of steps: the option
  for (const auto& place : places) {
    std::vector<double> next(width, kNever);
    std::vector<size_t> option(width, 0);
    for (size_t o = 0; o < place.size(); ++o) {
      const size_t cost = in_steps(place[o].cost);
      for (size_t s = 0; s + cost < width; ++s) {
        const double damage = least[s] + place[o].damage;
        if (damage < next[s + cost]) {
          next[s + cost] = damage;
          option[s + cost] = o;
        }
      }
    }
    least = std::move(next);
    taken.push_back(std::move(option));
  }

  std::vector<Choice> choices;
  double best = kNever;
  for (size_t s = 0; s < width; ++s) {
    if (!(least[s] < best)) continue;
    best = least[s];
    std::vector<size_t> options(places.size());
    size_t at = s;
    for (size_t p = places.size(); p-- > 0;) {
      options[p] = taken[p][at];
      at -= in_steps(places[p][options[p]].cost);
    }
    choices.push_back(Sum(places, std::move(options)));
  }
  return choices;
}

const Choice& CheapestUnder(const std::vector<Choice>& choices, double most) {
  const Choice* best = &choices.back();
  for (const Choice& choice : choices) {
    if (choice.damage <= most && (choice.cost < best->cost || best->damage > most)) best = &choice;
  }
  return *best;
}

}  // namespace kvgplan
