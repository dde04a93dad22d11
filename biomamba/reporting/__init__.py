"""Result records to tables and curves."""
