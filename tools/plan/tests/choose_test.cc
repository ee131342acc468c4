// The choice of options, against all assignments tried one by one.
#include "choose.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

namespace kvgplan {
namespace {

using Places = std::vector<std::vector<Option>>;

Places RandomPlaces(uint32_t seed, size_t places, size_t options) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> value(0, 1);
  Places out(places);
  for (auto& place : out) {
    for (size_t o = 0; o < options; ++o) place.push_back({value(random), value(random)});
  }
  return out;
}

// The least damage of all assignments within `most`, or infinity.
double LeastDamage(const Places& places, double most, size_t from = 0) {
  if (most < 0) return std::numeric_limits<double>::infinity();
  if (from == places.size()) return 0;
  double best = std::numeric_limits<double>::infinity();
  for (const Option& option : places[from]) {
    best = std::min(best, option.damage + LeastDamage(places, most - option.cost, from + 1));
  }
  return best;
}

// The choice of least damage with cost <= `most`; where all are dearer, the cheapest.
const Choice& BestWithin(const std::vector<Choice>& choices, double most) {
  const Choice* best = &choices.front();
  for (const Choice& choice : choices) {
    if (choice.cost <= most && choice.damage < best->damage) best = &choice;
  }
  return *best;
}

TEST(Choose, NoAssignmentIsBetterButForOneStepAPlace) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const Places places = RandomPlaces(seed, 5, 4);
    const std::vector<Choice> choices = BestChoices(places, 2000);
    for (const double limit : {1.0, 1.5, 2.0, 3.0, 4.9}) {
      const Choice& choice = BestWithin(choices, limit);
      if (choice.cost > limit) {
        EXPECT_TRUE(std::isinf(LeastDamage(places, limit - 5 * 5.0 / 2000))) << seed << " " << limit;
        continue;
      }
      EXPECT_GE(choice.damage, LeastDamage(places, limit) - 1e-12);
      EXPECT_LE(choice.damage, LeastDamage(places, limit - 5 * 5.0 / 2000) + 1e-12);
    }
  }
}

TEST(Choose, SumsAreThoseOfTheOptions) {
  const Places places = RandomPlaces(7, 6, 3);
  for (const Choice& choice : BestChoices(places)) {
    ASSERT_EQ(choice.options.size(), places.size());
    double cost = 0, damage = 0;
    for (size_t p = 0; p < places.size(); ++p) {
      cost += places[p][choice.options[p]].cost;
      damage += places[p][choice.options[p]].damage;
    }
    EXPECT_DOUBLE_EQ(choice.cost, cost);
    EXPECT_DOUBLE_EQ(choice.damage, damage);
  }
}

TEST(Choose, ChoicesRiseInCostAndFallInDamage) {
  const std::vector<Choice> choices = BestChoices(RandomPlaces(3, 8, 5), 500);
  ASSERT_GT(choices.size(), 2u);
  for (size_t i = 1; i < choices.size(); ++i) EXPECT_LT(choices[i].damage, choices[i - 1].damage);
}

TEST(Choose, WhatCannotBeHadGivesTheNearest) {
  const Places places = {{{1, 5}, {2, 3}}, {{1, 4}, {3, 1}}};
  const std::vector<Choice> choices = BestChoices(places);
  EXPECT_EQ(BestWithin(choices, 0.5).options, (std::vector<size_t>{0, 0}));
  EXPECT_EQ(CheapestUnder(choices, 0).options, (std::vector<size_t>{1, 1}));
  EXPECT_EQ(CheapestUnder(choices, 7.5).options, (std::vector<size_t>{1, 0}));
  EXPECT_EQ(BestWithin(choices, 4.5).options, (std::vector<size_t>{0, 1}));
}

TEST(Choose, OptionsWithoutCost) {
  const std::vector<Choice> choices = BestChoices({{{0, 2}, {0, 1}}, {{0, 0}}});
  ASSERT_EQ(choices.size(), 1u);
  EXPECT_EQ(choices[0].options, (std::vector<size_t>{1, 0}));
}

}  // namespace
}  // namespace kvgplan
