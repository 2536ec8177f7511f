"""The text substrate: skill documents, typed edits, proposers of edits, and the SkillOpt loop."""
