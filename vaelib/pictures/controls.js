// Runs in the page of a notebook: each slider, and the number beside it, is called by what its label says, also when
// that changes, and JupyterLab takes no key that is pressed in a control.
const mend = () => {
  document.querySelectorAll(".vaelib-board .widget-slider").forEach((slider) => {
    const label = slider.querySelector(".widget-label").textContent;
    slider.querySelectorAll(".noUi-handle, .widget-readout").forEach((part) => {
      if (part.ariaLabel !== label) part.ariaLabel = label;
      if (part.isContentEditable && part.role !== "textbox") part.role = "textbox";
    });
  });
  const controls = ":is(select, input, button, .noUi-handle, .widget-readout)";
  document.querySelectorAll(`.vaelib-board ${controls}`).forEach((part) => {
    part.dataset.lmSuppressShortcuts = "true";
  });
};
if (!window.vaelibBoards) {
  window.vaelibBoards = new MutationObserver(mend);
  window.vaelibBoards.observe(document.body, {subtree: true, childList: true});
}
mend();
