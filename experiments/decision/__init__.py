"""The decision between building and buying: costs, rules, sensitivity."""
