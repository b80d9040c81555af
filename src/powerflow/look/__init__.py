"""The look that all HTML pages share: colours, tables, lists of facts."""
