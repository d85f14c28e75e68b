// Runs before first paint, so that a chosen theme never flashes the other one.
(function () {
  try {
    var theme = localStorage.getItem("yantra.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch (_) {
    /* storage refused: the system's theme applies */
  }
})();
