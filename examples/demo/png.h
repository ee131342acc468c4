// From SVG to PNG, by the program rsvg-convert. Used by main.cc.
#ifndef KVGEAR_EXAMPLES_DEMO_PNG_H_
#define KVGEAR_EXAMPLES_DEMO_PNG_H_

#include <string>

namespace demo {

/// A Refusal that says what to install, unless rsvg-convert can be run.
void RequireConverter();

/// Draws the picture in `svg_path` to `png_path`, twice as large.
void ConvertToPng(const std::string& svg_path, const std::string& png_path);

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_PNG_H_
