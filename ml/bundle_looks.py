"""What an evidence bundle says of itself, and how its page looks."""

from __future__ import annotations

from ml.report import CSS

#: README.txt of every bundle.
README = """Evidence bundle of one decision
===============================

index.html           the story, to be read
decision.json        the same for programs
proof.json           what counts: the rows of all events, and the hashes to the signed head
checkpoint.txt       the signed head: how many events the log has, and their Merkle root
events/              each event in readable form, by its position in the log
model/               the models that scored the decision, each under the SHA-256 of its bytes
model-card.md        what the model was made for and how it does, as of the making of this bundle
schemas.json         the JSON schema of each kind of event
day.json             if there: the proof that the decision's day (UTC) had no other requests than
                     these, as far as the day was over under the signed head
explanation/         how the features push the choice's score
manifest.json        the SHA-256 of each file
verifier.py          the program that checks all this; better take your own copy of it

To check it, with Python 3.11 or later and without the system that made it:

    python verifier.py BUNDLE.zip --origin chainlytics/...

The origin is the log's name. Take it from a source that you trust, not from here: without it, all
of this may be of a log that somebody made up, the model that xgboost reads included. To make the
decision again, numpy and xgboost (the version that decision.json names under "libraries") have to
be installed; it is made again only where all else holds. Exit code 0: all holds; 1: something does
not; 3: something was not checked. What is not proved stands on the lines that begin with "note".
Check this archive as it came: one that was packed anew has other bytes and is refused.

What is proved and what is not
------------------------------
Proved: that the events are in the log as it was signed, to the byte; that decision.json and events/
say what they say; that the models are the ones that decided; that the choice follows; that no event
is missing between those of the decision, of its models and of the policy that are here.
The values of features are the log's own bytes; how they come about from all events before the
request is checked by `chainlytics decisions replay`, where the whole log is.
Not proved: words beside the numbers (sentences of features and rules), who had which roles
("asked_as"), the model's card, schemas.json, index.html, the picture, this page, and the copy of
verifier.py. The manifest is not signed. Nor is it proved that nothing followed behind the last
event of a stream that is here (the decision may have been overridden since: ask for a newer
bundle), that no later policy was left out, and that no other model had the role meanwhile: who
makes a bundle could leave that out, and the check says up to where each stream is here.
Personal data is encrypted in the events (values that begin with "p1."); nothing here opens it.
"""


#: The page's style sheet: light or dark as the screen is, and fit to be printed.
STYLE = (
    CSS
    + """
:root { --good: #1a7f4b; --bad: #b3261e; --accent: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --good: #5fc58f; --bad: #ff8a80;
  --accent: #7ab8ff; } }
main { max-width: 60rem; }
.kicker { color: var(--faint); font-size: .9rem; margin: 0 0 .35rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin-bottom: .5rem; }
.now { font-size: 1.1rem; color: var(--bad); }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
a.at { font-variant-numeric: tabular-nums; white-space: nowrap; }
.box { background: var(--soft); border: 1px solid var(--rule); border-radius: 8px;
  padding: .25rem 1rem; margin: 1.5rem 0; }
.box p { margin: .6rem 0; max-width: none; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.25rem; margin: 1rem 0; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
ol, ul { max-width: 44rem; padding-left: 1.3rem; } li { margin: .3rem 0; }
pre { background: var(--soft); border-radius: 6px; padding: .75rem 1rem; overflow-x: auto;
  font-size: .85rem; }
code { font-size: .9em; }
tr.chosen td { background: var(--soft); font-weight: 600; }
td:first-child { padding-left: .4rem; } th:first-child { padding-left: .4rem; }
tr:target td { background: var(--soft); box-shadow: inset 3px 0 var(--accent); }
.good { color: var(--good); } .bad { color: var(--bad); } .faint { color: var(--faint); }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .6rem; } }
@media print { :root { color-scheme: light; --ink: #1f2328; --faint: #5b636d;
  --rule: #d9dee3; --ground: #fff; --soft: #f5f7f9; --good: #1a7f4b; --bad: #b3261e;
  --accent: #0b5cad; }
  main { max-width: none; padding: 0; } body { font-size: 10.5pt; }
  h2 { break-after: avoid; } tr, figure, .box { break-inside: avoid; }
  .wide { overflow: visible; } }
"""
)
