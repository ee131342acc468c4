// The picture of a comparison: bytes against fidelity, as SVG. Used by main.cc.
#ifndef KVGEAR_EXAMPLES_DEMO_PLOT_H_
#define KVGEAR_EXAMPLES_DEMO_PLOT_H_

#include <string>
#include <vector>

#include "evaluate.h"

namespace demo {

/// One panel for the exams and one for the text, as far as there were any. `model` is a name for
/// the line below the title.
std::string PictureSvg(const std::vector<Result>& results, const std::string& model);

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_PLOT_H_
