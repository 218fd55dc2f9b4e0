# /// script
# requires-python = ">=3.11"
# dependencies = ["fonttools==4.*", "brotli", "emoji==2.16.*"]
# ///
# mypy: ignore-errors
"""Make sandbox/renderer/fonts/Actors.ttf: `uv run tests/support/actors_font.py twemoji.woff2`.

The argument is the font of the npm package twemoji-colr-font (15.0.3), which is not part of any set-up here.

Kept is what a preview can show: no skin tones, no flags of countries. Sequences become single characters of a
private area, since joining them at run time needs a system library; sequences.txt lists them in that order.
Every base glyph gets a box: Pillow measures a picture by it, and the original has nothing there.
"""

import sys
from pathlib import Path

import emoji
from fontTools.pens.boundsPen import BoundsPen
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont

PRIVATE = 0xF0000
FONTS = Path(__file__).parents[2] / "sandbox" / "renderer" / "fonts"
font = TTFont(sys.argv[1], recalcTimestamp=False)
cmap, glyphs = font.getBestCmap(), font["glyf"]
joined = {}
for lookup in font["GSUB"].table.LookupList.Lookup:
    for table in lookup.SubTable:
        for first, ends in table.ligatures.items():
            joined |= {(first, *end.Component): end.LigGlyph for end in ends}

single, sequences = {}, {}
for text, facts in emoji.EMOJI_DATA.items():
    codes = [ord(c) for c in text if ord(c) != 0xFE0F]
    tones = any(0x1F3FB <= c <= 0x1F3FF for c in codes)
    flag = any(0x1F1E6 <= c <= 0x1F1FF or c >= 0xE0000 for c in codes)
    if facts["status"] != emoji.STATUS["fully_qualified"] or tones or flag or codes[0] < 0x2000:
        continue
    whole, short = (tuple(cmap.get(ord(c)) for c in form) for form in (text, "".join(map(chr, codes))))
    if len(codes) == 1 and short[0]:
        single[codes[0]] = short[0]
    elif whole in joined or short in joined:
        sequences["".join(map(chr, codes))] = joined.get(whole) or joined[short]

outlines = font.getGlyphSet()
for base, layers in font["COLR"].ColorLayers.items():
    pen, box = TTGlyphPen(None), BoundsPen(outlines)
    for layer in layers:
        outlines[layer.name].draw(box)
    left, bottom, right, top = map(round, box.bounds)
    pen.moveTo((left, bottom))
    for corner in ((left, top), (right, top), (right, bottom)):
        pen.lineTo(corner)
    pen.closePath()
    glyphs[base] = pen.glyph()
    font["hmtx"][base] = (font["hmtx"][base][0], left)

ordered = sorted(sequences)
every = single | {PRIVATE + at: sequences[text] for at, text in enumerate(ordered)}
for table in font["cmap"].tables:
    table.cmap = {c: name for c, name in every.items() if c < 0x10000 or table.format == 12}
del font["GSUB"], font["GDEF"], font["FFTM"]
options = Options(name_IDs=[1, 2, 4, 6], hinting=False, notdef_outline=True, glyph_names=False)
subsetter = Subsetter(options)
subsetter.populate(unicodes=every)
subsetter.subset(font)
for record in font["name"].names:
    record.string = {1: "OneTake Actors", 2: "Regular", 4: "OneTake Actors", 6: "OneTakeActors"}[
        record.nameID
    ]
font.flavor = None
font.save(FONTS / "Actors.ttf")
(FONTS / "sequences.txt").write_text("\n".join(ordered) + "\n", "utf-8")
