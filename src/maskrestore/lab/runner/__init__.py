"""Run the cells of tables and figures: plan, schedule, lock, execute, in one process or several."""
